"""Train a student on good parts and score the test images, as set in config.yaml."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.command import SIZES, SOME_FAILED, explained, run, run_flags
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

    from engine.categories import runs_of
    from engine.machine import keep_freed_memory
    from evaluation.report import summary_of_several
    from utils.console import remember, say
    from utils.ranks import is_main

    keep_freed_memory()
    remember(shlex.join(sys.argv))
    runs = runs_of(args.config, args.overrides)
    one = runs.get(None)
    folders = train_and_test(*one) if one else train_and_test_each(runs)
    if is_main() and folders and (len(folders) > 1 or not one):
        say(summary_of_several(folders))
    if not one and len(folders) < len(runs):
        say(f"{len(runs) - len(folders)} of {len(runs)} categories failed")
        sys.exit(SOME_FAILED)


def train_and_test_each(runs: Mapping[str, tuple[str | Mapping, Sequence[str]]]) -> list[Path]:
    """A run for each category; one that fails is named, and the others go on. Returns the folders of the others.

    With several processes none goes on: one of them alone may have failed, and the others wait for it.
    """
    from trainer import read_run
    from utils.console import note
    from utils.ranks import world_size

    for each in runs.values():
        read_run(*each)  # a mistake in the configuration is one error, now
    folders = []
    for name, each in runs.items():
        try:
            folders += train_and_test(*each)
        except Exception as error:
            sentence = explained(error, SIZES)
            if sentence is None:
                raise
            if world_size() > 1:
                raise UserError(f"{name}: {sentence}") from None
            note(f"{name}: {sentence}")
    return folders


def train_and_test(source: str | Mapping, overrides: Sequence[str] = ()) -> list[Path]:
    """One student; returns the folders of its tests: the run's or, if it is for several categories, one for each."""
    from datasets.demo import ensure_demo
    from engine.retest import check_own_folder, check_retestable
    from engine.unified import categories_apart, repeatable, set_aside
    from evaluation.report import summary
    from trainer import build_trainer
    from utils.console import say
    from utils.ranks import is_main

    trainer = build_trainer(source, overrides)
    if trainer.config.phase == "test":
        check_own_folder(source, overrides, trainer.config)
    for part in categories_apart(trainer):
        ensure_demo(part.config)
        if trainer.config.unified:
            check_retestable(part.folder, part.config)  # now, not after hours of training
    if trainer.config.phase == "train":
        student = trainer.folder.student_file
        before = student.exists() and student.stat().st_mtime_ns
        trainer.train()
        if is_main() and trainer.config.unified and student.stat().st_mtime_ns != before:
            for part in categories_apart(trainer):
                set_aside(part)
    if is_main():
        trainer.load()
        for part in categories_apart(trainer):
            repeatable(trainer.run_dir, part.run_dir)
            part.test()
            with part.folder.log():
                say(summary(part.run_dir))
    return [part.run_dir for part in categories_apart(trainer)]


if __name__ == "__main__":
    run(main)
