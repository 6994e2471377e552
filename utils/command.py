"""What the scripts have in common: their flags, and what a user sees of a mistake."""

import argparse
import os
import sys
from collections.abc import Callable

import torch

from utils.errors import UserError


def run_flags(description: str, config: str = "config.yaml") -> argparse.ArgumentParser:
    """`--config FILE` and trailing `key=value` words."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", default=config, metavar="FILE", help="the run to read (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key, e.g. TrainingData.epochs=10")
    return parser


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user's mistake ends in one sentence and exit code 2, Ctrl-C in another and 130."""
    try:
        main()
    except UserError as error:
        sys.exit(_say(f"error: {error}", 2))
    except torch.OutOfMemoryError:
        sys.exit(_say("error: out of GPU memory: lower batch_size or img_size", 2))
    except KeyboardInterrupt:
        # Worker threads may still be busy; nothing they do matters any more, and a traceback helps nobody.
        code = _say("\ninterrupted; the same command takes a training up again from its last checkpoint", 130)
        sys.stderr.flush()
        os._exit(code)


def _say(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code
