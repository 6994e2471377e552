"""Pages that open without a network: one file each, with style, script and data in it.

Whatever a page shows may come from a user, names of files above all: Jinja2 escapes all of it.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from evaluation.colours import INFERNO
from utils.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of templates/. Raises UserError naming a file that cannot be written."""
    write_text(path, _environment().get_template(template).render(**values))


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Style and scripts are our own files: they are not escaped, and nothing in them is replaced.
    found.globals["inlined"] = lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8"))
    found.globals["colour_steps"] = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in INFERNO]
    return found
