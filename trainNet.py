"""Train a student on good parts and score the test images, as set in config.yaml."""

import shlex
import sys
from pathlib import Path

from utils.command import run, run_flags
from utils.errors import UserError


def main() -> None:
    parser = run_flags(__doc__)
    parser.add_argument("--list", action="store_true", help="only list methods, teachers and categories in data_path")
    args = parser.parse_intermixed_args()
    if args.list:
        from engine.overview import overview
        from utils.config_file import read_config

        print(overview(read_config(args.config, args.overrides)))
        return

    from datasets.readers import AUTO
    from engine.cells import categories
    from engine.machine import keep_freed_memory
    from evaluation.report import summary_of_several
    from utils.config_file import read_config
    from utils.console import remember, say
    from utils.ranks import is_main

    keep_freed_memory()
    remember(shlex.join(sys.argv))
    raw = read_config(args.config, args.overrides)
    if raw.get("obj") != "all" and not isinstance(raw.get("obj"), list):
        train_and_test(args.config, args.overrides)
        return
    if not raw["obj"]:
        raise UserError("obj: the list is empty; give one category or more")
    names = categories(Path(str(raw.get("data_path"))), raw["obj"], str(raw.get("reader", AUTO)))
    folders = [train_and_test(args.config, [*args.overrides, f"obj={name}"]) for name in names]
    if is_main():
        say(summary_of_several(folders))


def train_and_test(config: str, overrides: list[str]) -> Path:
    """One category; returns the folder of its run."""
    from datasets.demo import ensure_demo
    from evaluation.report import summary
    from trainer import build_trainer
    from utils.console import say
    from utils.ranks import is_main

    trainer = build_trainer(config, overrides)
    ensure_demo(trainer.config)
    if trainer.config.phase == "train":
        trainer.train()
    if is_main():
        trainer.load()
        trainer.test()
        with trainer.folder.log():
            say(summary(trainer.run_dir))
    return trainer.run_dir


if __name__ == "__main__":
    run(main)
