"""Someone new adds a method as the README says: one file, one import, one line, one config."""

import json
import re
import shutil

import yaml

from tests.conftest import REPO, run_script
from utils.config import read_config


def add_the_readmes_method(copy):
    """The toolkit in folder `copy` with the README's example method in it, called `my`."""
    for part in ("datasets", "models", "trainer", "utils", "trainNet.py", "visualization.py"):
        source = REPO / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
    examples = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.S)
    (example,) = [code for code in examples if "class MyTrainer(BaseTrainer)" in code]
    (copy / "trainer/mymethod.py").write_text(example)
    init = (copy / "trainer/__init__.py").read_text()
    init = init.replace("from trainer.mixed", "from trainer.mymethod import MyTrainer\nfrom trainer.mixed")
    init = init.replace("] = {\n", '] = {\n    "my": MyTrainer,\n')
    (copy / "trainer/__init__.py").write_text(init)
    section = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "img_size": 64}
    config = {"distillType": "my", "backbone": "resnet18", "obj": "part", "weights": "random", "TrainingData": section}
    (copy / "configMyMethod.yaml").write_text(yaml.safe_dump(config | {"data_path": "data", "save_path": "results"}))


def test_the_readmes_method_trains_tests_reloads_and_shows_itself(tiny_mvtec, tmp_path):
    add_the_readmes_method(tmp_path)
    words = ["--config", "configMyMethod.yaml", f"data_path={tiny_mvtec}"]
    figures = []
    for more in ([], ["phase=test"]):
        process = run_script("trainNet.py", *words, *more, cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        figures.append(json.loads((tmp_path / "results/my/part/metrics.json").read_text())["metrics"])
    assert figures[0] == figures[1] and "aupro" in figures[0]
    shown = run_script("visualization.py", *words, "--channels", "2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    pages = {page.parent.name for page in (tmp_path / "results/my/part/features").rglob("*.png")}
    assert pages == {"good", "square"}
    assert read_config(tmp_path / "results/my/part/config.yaml")["TrainingData"]["lr"] == 1e-3
