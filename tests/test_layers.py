"""The rooms and their imports: imports point downwards, and a method loads little."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import REPO

# A room may import the rooms below it, and itself. trainer/ uses the pictures of pretraining/, not the reverse.
FLOORS = {
    "deploy": 6,
    "trainer": 5,
    "pretraining": 4,
    "engine": 3,
    "evaluation": 2,
    "models": 1,
    "datasets": 1,
    "utils": 0,
}
SCRIPTS = 7
CLOSURE = 2400  # lines that importing a method may load
METHODS = ["stpm", "rd", "rdpp", "efficientad", "dbfad", "mixed", "remembering"]


def room(path):
    return path.parts[0] if len(path.parts) > 1 else path.stem


def imports(path):
    """Names of the modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse((REPO / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


FILES = [
    path.relative_to(REPO)
    for path in sorted(REPO.rglob("*.py"))
    if path.relative_to(REPO).parts[0] in FLOORS or path.parent == REPO
]


def test_every_room_is_known():
    packages = {path.parent.name for path in REPO.glob("*/__init__.py")} - {"tests"}
    assert packages == set(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_imports_point_downwards(name):
    wrong = [
        f"{path} imports {module}"
        for path in FILES
        if room(path) == name
        for module in imports(path)
        if (other := module.partition(".")[0]) in FLOORS and other != name and FLOORS[other] >= FLOORS[name]
    ]
    assert not wrong


def test_no_room_imports_a_script():
    scripts = {path.stem for path in REPO.glob("*.py")}
    assert not [f"{path} imports {m}" for path in FILES if path.parent.parts for m in imports(path) if m in scripts]


def python(code):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


LOADED = """
import importlib, pathlib, sys
rooms = tuple(str(pathlib.Path.cwd() / room) + "/" for room in {rooms!r})  # not a .venv beside them
for method in {methods!r}:  # in one process, because torch is slow to import
    importlib.import_module("trainer." + method)
    paths = {{name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}}
    ours = {{name: path for name, path in paths.items() if path.startswith(rooms)}}
    print(sum(len(pathlib.Path(f).read_text(encoding="utf-8").splitlines()) for f in set(ours.values())))
    assert not [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "pretraining", "benchmarks")]
    for name in ours:
        del sys.modules[name]
"""


def test_importing_a_method_loads_little():
    lines = dict(zip(METHODS, map(int, python(LOADED.format(methods=METHODS, rooms=list(FLOORS)))), strict=True))
    assert not {method: count for method, count in lines.items() if not 500 < count <= CLOSURE}


GLOBALS = """
import importlib, os, sys
import cv2, matplotlib, numpy, PIL.Image, PIL.ImageFile, torch
def state():
    return (matplotlib.get_backend(auto_select=False), PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
            torch.get_num_threads(), cv2.getNumThreads(), numpy.geterr(), torch.get_default_dtype(),
            torch.backends.cudnn.benchmark, dict(os.environ))
before = state()
for name in {modules!r}:
    importlib.import_module(name)
import trainer
trainer.TRAINERS
print(state() == before)
"""


@pytest.mark.slow
def test_importing_changes_nothing_of_other_libraries():
    modules = [
        ".".join(path.with_suffix("").parts) for path in FILES if path.name != "__init__.py" and path.parent.parts
    ]
    assert python(GLOBALS.format(modules=modules)) == ["True"]
