"""Make a teacher that needs no download, as a file in configs/teachers/ says."""

import json
import shlex

from engine.device import keep_freed_memory
from pretraining import RECIPES
from utils.command import run, run_flags
from utils.config import check_config, read_config
from utils.errors import UserError


def main() -> None:
    args = run_flags(__doc__, config="configs/teachers/resnet18.yaml").parse_intermixed_args()
    keep_freed_memory()
    raw = read_config(args.config, args.overrides)
    recipe = raw.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise UserError(f"{args.config}: 'recipe' must be one of {', '.join(RECIPES)} (got {recipe!r})")
    job = RECIPES[recipe]
    path = job(check_config(raw, job.Options, args.config, args.overrides)).run()
    last = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["last"]
    print("means of the last row of log.csv: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
    print(f"teacher: {path}  (use it with {shlex.quote(f'weights={path}')})")


if __name__ == "__main__":
    run(main)
