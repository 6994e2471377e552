"""docs/notebook.ipynb: what is in the repository was executed, and it runs."""

import json
import re
import shutil

import pytest

from tests.conftest import REPO

NOTEBOOK = REPO / "docs/notebook.ipynb"


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_every_cell_has_what_it_gave_and_none_failed():
    assert NOTEBOOK.stat().st_size < 300_000
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell["outputs"] and all(each["output_type"] != "error" for each in cell["outputs"])
    shown = [each for cell in cells for each in cell["outputs"] if "image/jpeg" in each.get("data", {})]
    assert len(shown) == 3  # map, picture, mask


def test_the_page_has_the_lines_of_the_notebook():
    lines = {line for cell in code_cells() for line in "".join(cell["source"]).splitlines()}
    page = (REPO / "docs/notebook.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 2
    assert {line for block in blocks for line in block.splitlines()} <= lines | {""}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """With one epoch on small pictures, in a folder of its own: nbclient raises the error of a cell that fails."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    shutil.copy(REPO / "config.yaml", tmp_path)
    (tmp_path / "docs").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "TrainingData.epochs=20" in first.source
    first.source = first.source.replace('TrainingData.epochs=20"', 'TrainingData.epochs=1", "TrainingData.img_size=64"')
    there = {"metadata": {"path": str(tmp_path / "docs")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=there).execute()
    assert (tmp_path / "results/st/weave-notebook/metrics.json").is_file()
    outputs = [each for cell in notebook.cells if cell.cell_type == "code" for each in cell.outputs]
    assert any("image_auroc" in each.get("data", {}).get("text/plain", "") for each in outputs)
    assert sum("image/png" in each.get("data", {}) for each in outputs) == 3
