"""The load test, with a server process that judges brightness."""

import re
import sys

import numpy as np
import pytest

from benchmarks import serve
from tests.conftest import draw_good, write_image
from utils.errors import UserError

SERVER = """
import sys, time
from deploy import serve
from tests.deploy.brightness import Brightness

class Slow(Brightness):
    def maps_of(self, images):
        time.sleep(0.02)
        return super().maps_of(images)

serve.judge_of = lambda args: Slow()
sys.argv[0] = "serve.py"
serve.main()
"""


@pytest.mark.slow
def test_every_request_of_a_load_has_an_answer(tmp_path, monkeypatch, capsys):
    for k in range(3):
        write_image(tmp_path / f"images/{k}.png", draw_good(np.random.default_rng(k)))
    monkeypatch.setattr(serve, "COMMAND", [sys.executable, "-c", SERVER])
    monkeypatch.setattr(
        sys, "argv", ["serve.py", "RUN", str(tmp_path / "images"), "--clients", "2", "--seconds", "0.4"]
    )
    with pytest.raises(SystemExit) as end:
        serve.main()
    assert end.value.code == 0
    _, _, usual, overload = capsys.readouterr().out.splitlines()
    name, rate, p50, p95, refused, other, lost = re.findall(r"[^|]+", usual.replace(" ", ""))
    assert name == "2" and float(rate) > 1 and 20 <= float(p50) <= float(p95) and (refused, other, lost) == ("0",) * 3
    name, rate, _, _, refused, other, lost = re.findall(r"[^|]+", overload.replace(" ", ""))
    assert name == "16,queueof4" and float(rate) > 1 and int(refused) > 0 and (other, lost) == ("0", "0")


def test_a_request_without_an_answer_is_lost():
    found = serve.load(1, [b"picture"], 2, 0)  # nobody listens on port 1
    assert found.statuses == {0: 2} and found.row("2").endswith("| 0 | 0 | 2 |")


def test_a_server_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(serve, "COMMAND", [sys.executable, "-c", "print('error: no such run')"])
    with pytest.raises(UserError, match="the server did not start"), serve.served(["nowhere"], 4):
        pass


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_is_served(config, tiny_mvtec):
    from trainer import build_trainer

    trainer = build_trainer(config("st", {"epochs": 1}))
    trainer.train()
    bodies = [path.read_bytes() for path in (tiny_mvtec / "part/test/good").iterdir()]
    with serve.served([str(trainer.run_dir)], 8) as port:
        found = serve.load(port, bodies, 2, 0.5)
    assert set(found.statuses) == {200}
