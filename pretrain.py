"""Make a teacher that needs no download, with a recipe from configs/teachers/."""

from utils.command import recipes, run, run_flags


def main() -> None:
    args = run_flags(__doc__, "configs/teachers/resnet18.yaml", files).parse_intermixed_args()

    import shlex

    from engine.machine import keep_freed_memory
    from pretraining import RECIPES
    from utils.config_file import check_config, place, read_config
    from utils.console import say
    from utils.errors import UserError
    from utils.files import read_json

    keep_freed_memory()
    raw = read_config(args.config, args.overrides)
    recipe = raw.get("recipe")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        where = place(args.config, args.overrides, "recipe")
        raise UserError(f"{where}: 'recipe' must be {' or '.join(RECIPES)} (got {recipe!r})")
    job = RECIPES[recipe]
    path = job(check_config(raw, job.Options, args.config, args.overrides)).run()
    last = read_json(path.with_suffix(".json"))["last"]
    say("means of the last row of log.csv: " + ", ".join(f"{key} {value:.4g}" for key, value in last.items()))
    say(f"teacher: {path}  (use it with {shlex.quote(f'weights={path}')})")


def files() -> str:
    """The recipes, and an example."""
    return "\n".join(
        [
            "files, each with all keys of its recipe and their meaning:",
            *(f"  {file} ({recipe}): {title}" for recipe, file, title in recipes("configs/teachers", "recipe")),
            "",
            "example:",
            "  python3 pretrain.py --config configs/teachers/pdn_small.yaml images=/data/imagenet/train steps=60000",
        ]
    )


if __name__ == "__main__":
    run(main, sizes="batch_size or img_size")
