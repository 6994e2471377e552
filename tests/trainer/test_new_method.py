"""A new user adds a method exactly as in the README: one file, one import, one line, one config."""

import json
import re
import shutil

import pytest
import yaml

from tests.conftest import REPO, run_script
from utils.config_file import read_config

FOLDERS = "trainer engine evaluation models datasets utils pretraining configs tests benchmarks docs".split()
SMALL = ["backbone=resnet18", "weights=random", "obj=part", "save_path=results"]
SMALL += [f"TrainingData.{word}" for word in ("epochs=2", "batch_size=4", "img_size=64", "crop_size=64")]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with the whole toolkit in it, and the README's example method, called `my`."""
    copy = tmp_path_factory.mktemp("toolkit")
    for folder in FOLDERS:
        shutil.copytree(REPO / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*REPO.glob("*.py"), REPO / "README.md", REPO / "config.yaml", REPO / ".pytest.ini"):
        shutil.copy(file, copy)
    examples = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.S)
    (example,) = [code for code in examples if "class MyTrainer(BaseTrainer)" in code]
    (copy / "trainer/mymethod.py").write_text(example, encoding="utf-8")
    methods = (copy / "trainer/__init__.py").read_text(encoding="utf-8")
    for line, more in (
        ("    from trainer.mixed ", "    from trainer.mymethod import MyTrainer\n"),
        ('        "st": ', '        "my": MyTrainer,\n'),
    ):
        assert methods.count(line) == 1
        methods = methods.replace(line, more + line)
    (copy / "trainer/__init__.py").write_text(methods, encoding="utf-8")
    complete = read_config(REPO / "configs/configSTPM.yaml")  # a method with only the common keys, like the new one
    complete |= {"distillType": "my", "TrainingData": complete["TrainingData"] | {"lr": 1e-3}}
    (copy / "configs/configMyMethod.yaml").write_text(yaml.safe_dump(complete), encoding="utf-8")
    return copy


@pytest.mark.slow
def test_the_readmes_method_trains_tests_and_shows_itself(copy, tiny_mvtec):
    words = ["--config", "configs/configMyMethod.yaml", f"data_path={tiny_mvtec}", *SMALL]
    process = run_script("trainNet.py", *words, cwd=copy)
    assert process.returncode == 0, process.stderr
    assert "aupro" in json.loads((copy / "results/my/part/metrics.json").read_text(encoding="utf-8"))["metrics"]
    shown = run_script("visualization.py", *words, "--channels", "2", cwd=copy)
    assert shown.returncode == 0, shown.stderr
    pages = {page.parent.name for page in (copy / "results/my/part/features").rglob("*.png")}
    assert pages == {"good", "square"}
    assert read_config(copy / "results/my/part/config.yaml")["TrainingData"]["lr"] == 1e-3


@pytest.mark.slow
def test_the_tests_of_every_method_pass_for_the_readmes_method(copy, device):
    """After a method is added, pytest passes, and tests the method."""
    files = ["tests/trainer/test_methods.py", "tests/scripts/test_configs.py", "-k", "my or every_method"]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--device={device.type}"]
    process = run_script(*words, *files, cwd=copy)
    assert process.returncode == 0, process.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", process.stdout)[1]) > 15
