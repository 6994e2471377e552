"""Train a student on good parts and score the test images, as config.yaml says."""

from datasets.demo import ensure_demo
from engine.device import keep_freed_memory
from engine.distributed import start
from evaluation.report import summary
from trainer import build_trainer
from utils.command import run, run_flags
from utils.ranks import is_main


def main() -> None:
    args = run_flags(__doc__).parse_intermixed_args()
    keep_freed_memory()
    trainer = build_trainer(args.config, args.overrides)
    start(trainer.device)
    ensure_demo(trainer.config)
    if trainer.config.phase == "train":
        trainer.train()
    if is_main():
        trainer.load()
        trainer.test()
        print(summary(trainer.run_dir))


if __name__ == "__main__":
    run(main)
