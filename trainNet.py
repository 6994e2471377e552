"""Train a student on good parts and score the test images, as set in config.yaml."""

import shlex
import sys

from utils.command import run, run_flags


def main() -> None:
    args = run_flags(__doc__).parse_intermixed_args()

    from datasets.demo import ensure_demo
    from engine.machine import keep_freed_memory
    from evaluation.report import summary
    from trainer import build_trainer
    from utils.console import remember, say
    from utils.ranks import is_main

    keep_freed_memory()
    remember(shlex.join(sys.argv))
    trainer = build_trainer(args.config, args.overrides)
    ensure_demo(trainer.config)
    if trainer.config.phase == "train":
        trainer.train()
    if is_main():
        trainer.load()
        trainer.test()
        with trainer.folder.log():
            say(summary(trainer.run_dir))


if __name__ == "__main__":
    run(main)
