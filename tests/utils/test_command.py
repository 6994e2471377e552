import argparse
import errno
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.conftest import REPO
from trainer import TRAINERS
from utils import command
from utils.command import explained, recipes, run, run_flags, whole_number
from utils.errors import UserError


def ended(main, capsys):
    """(exit code, text on stderr) of a script with this `main`."""
    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code, capsys.readouterr().err


def failing(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("obj: no such category"), "error: obj: no such category\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/train"),
            "error: cannot read or write /data/train: Permission denied\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: cannot read or write: No space left on device\n"),
        (
            PermissionError("Caught PermissionError in DataLoader worker process 0.\nTraceback:\n  Denied: 'x.png'\n"),
            "error: cannot read or write: Denied: 'x.png'\n",
        ),
        (
            UnicodeEncodeError("utf-8", "caf\udce9.png", 3, 4, "surrogates not allowed"),
            "error: a name or a file contains invalid text: 'caf\\udce9.png'\n",
        ),
        (
            ModuleNotFoundError("No module named 'yaml'", name="yaml"),
            "error: the package yaml is missing: pip install -r requirements.txt\n",
        ),
        (MemoryError(), "error: out of memory: lower batch_size, img_size or cache_mb\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "error: out of GPU memory: lower batch_size or img_size\n",
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
            "error: out of GPU memory: lower batch_size or img_size\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(error, said, capsys):
    assert ended(failing(error), capsys) == (2, said)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**14), lambda: np.empty(10**16)], ids=["torch", "numpy"])
def test_memory_that_is_not_there_is_a_sentence(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        allocate()
    assert explained(error.value, "--size") == "out of memory: lower --size"


@pytest.mark.parametrize(
    "text",
    ["std::bad_alloc", "bad allocation", "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer"],
)
def test_the_engines_of_exported_models_have_their_own_words_for_too_little_memory(text):
    assert explained(RuntimeError(text), "--size") == "out of memory: lower --size"


def test_a_fault_of_the_toolkit_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="odd"):
        run(failing(RuntimeError("odd")))
    with pytest.raises(KeyError):
        run(failing(KeyError("odd")))
    for name in ("deploy.gone", "predict.gone"):
        with pytest.raises(ModuleNotFoundError):
            run(failing(ModuleNotFoundError(f"No module named '{name}'", name=name)))


def test_a_word_of_thousands_of_letters_is_shown_in_part(capsys):
    code, said = ended(failing(UserError("--layers: 1 to 3 (got '" + "9" * 5000 + "')")), capsys)
    assert code == 2 and len(said) < 1000
    assert said.startswith("error: --layers: 1 to 3 (got '999") and said.endswith("999')\n")


def test_a_flag_that_is_not_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trainNet.py", "--epochs", "3"])
    code, said = ended(lambda: run_flags("").parse_intermixed_args(), capsys)
    assert code == 2 and said.startswith("error: command line: unrecognized arguments: --epochs")
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["²", "x", "", "1.5", "17", "0", "-1", "9" * 5000, "1e1", "٣"])
def test_a_number_that_a_flag_does_not_take_is_told_its_limits(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 16 ") as error:
        whole_number(1, 16)(text)
    assert len(str(error.value)) < 100
    assert whole_number(1, 16)("16") == 16


def test_of_several_processes_the_first_speaks_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    ended(failing(UserError("a")), capsys)
    assert waits == []
    monkeypatch.setenv("RANK", "1")
    ended(failing(UserError("a")), capsys)
    with pytest.raises(RuntimeError):
        run(failing(RuntimeError("odd")))
    assert waits == [command.FIRST_FAILS] * 2


def test_the_config_beside_the_script_is_read_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["trainNet.py"])
    monkeypatch.chdir(tmp_path)
    assert run_flags("").parse_args().config == str(REPO / "config.yaml")
    (tmp_path / "config.yaml").write_text("")
    assert run_flags("").parse_args().config == "config.yaml"


def test_the_help_of_a_run_has_every_method_with_its_file():
    found = {method: file for method, file, _ in recipes("configs", "distillType")}
    assert set(found) == set(TRAINERS)
    assert found["st"] == "configs/configSTPM.yaml"


def test_a_name_that_is_no_valid_text_can_be_printed(capfdbinary):
    run(lambda: print("caf\udce9"))
    assert capfdbinary.readouterr().out == b"caf\\udce9\n"


SCRIPT = """
import sys, time
from utils.command import run

def main():
    print("ready", flush=True)
    {body}

run(main)
"""


def started(body):
    """A script with this main, as a process that has started it."""
    code = SCRIPT.format(body=body)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPO, **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize(
    "body",
    ["time.sleep(60)", "import tests.utils.waits_while_imported"],
    ids=["working", "importing"],
)
def test_ctrl_c_is_one_word(body):
    process = started(body)
    time.sleep(0.2)  # it has printed, but may not sleep yet
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_a_reader_that_has_seen_enough_ends_the_process_without_a_message():
    """As in `python3 trainNet.py | head -1`."""
    process = started("sys.stdin.readline(); print('more')")
    process.stdout.close()
    process.stdin.write("go on\n")
    process.stdin.close()
    assert process.stderr.read() == "" and process.wait(timeout=30) == 141
