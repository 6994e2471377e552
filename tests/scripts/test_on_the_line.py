"""docs/on_the_line.md and the README's section: their commands, one after another, as they stand on the page."""

import re
import shlex
import sys

import numpy as np
import pytest

import calibrate
import export
import predict
import trainNet
from tests.conftest import REPO, draw_defect, draw_good, write_image, write_mvtec
from utils.command import run

SCRIPTS = {"trainNet.py": trainNet, "predict.py": predict, "calibrate.py": calibrate, "export.py": export}
FAST = ["TrainingData.epochs=1", "TrainingData.img_size=64", "TrainingData.batch_size=8"]


def commands(page):
    text = (REPO / page).read_text(encoding="utf-8")
    text = text[text.find("## On the line") :] if page == "README.md" else text
    text = text[: text.find("\n## Compare")] if page == "README.md" else text
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/on_the_line.md"])
def test_the_commands_of_a_page_work_one_after_another(page, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    write_mvtec(tmp_path / "my_data", "screw", train=100, good=4, bad=4)
    for k in range(20):
        write_image(tmp_path / f"other_good_pictures/{k}.png", draw_good(rng))
        write_image(tmp_path / f"{'new_pictures' if k % 2 else 'more'}/{k}.png", draw_defect(rng)[0])
    (tmp_path / "list.txt").write_text("more/2.png\nnew_pictures/3.png\n")
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert {words[1] for words in found} == set(SCRIPTS)
    for python, script, *words in found:
        assert python == "python3"
        monkeypatch.setattr(sys, "argv", [script, *words, *(FAST if script == "trainNet.py" else [])])
        run(SCRIPTS[script].main)
    assert len((tmp_path / "judged/predictions.csv").read_text().splitlines()) > 10
    if page == "docs/on_the_line.md":
        assert len((tmp_path / "judged_by_export/predictions.csv").read_text().splitlines()) > 10
    assert "false_reject_rate: 0.05" in (tmp_path / "results/st/screw/config.yaml").read_text()
