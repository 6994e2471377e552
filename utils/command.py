"""What the scripts have in common: their arguments, and how a user's mistake is shown.

Importing this module is fast: scripts import the rest inside `main`, so that --help answers at once.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from utils.errors import UserError
from utils.ranks import rank

ROOT = Path(__file__).parents[1]
SOME_FAILED = 3  # the exit code of a script that went on after a failure
INTERRUPTED = 130  # that of a process that Ctrl-C ended
SIZES = "batch_size, img_size or cache_mb"  # what to lower when there is not enough memory
CLOSED = 141  # that of a process whose output nobody reads any more, as the shell has it
LONGEST = 900  # characters of a sentence
FIRST_FAILS = 10  # seconds in which torchrun ends the other processes when one has failed
# The words of torch, OpenCV, and the engines of exported models.
NO_MEMORY = "(out of|not enough|insufficient|can't allocate|failed to allocate) memory|bad.alloc"


class Flags(argparse.ArgumentParser):
    """Like argparse's, but a mistake raises UserError with one sentence, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help shows what is possible")


def run_flags(
    description: str, config: str = "config.yaml", epilog: Callable[[], str] | None = None
) -> argparse.ArgumentParser:
    """`--config FILE` and `key=value` arguments after it; --help ends with what `epilog` returns, such as all keys."""
    parser = Flags(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        default=config if Path(config).exists() else str(ROOT / config),
        metavar="FILE",
        help=f"the file to read (default: {config} in the current folder, or else the toolkit's own)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="these values replace those of the file")
    if {"-h", "--help"} & set(sys.argv[1:]):  # it reads files
        parser.epilog = (epilog or run_help)()
    return parser


def run_help() -> str:
    """For the scripts that work on runs: the methods, the keys, and an example."""
    from utils.config import Config, TrainingData

    script = Path(sys.argv[0]).name
    keys = [key for key in Config.model_fields if key != "TrainingData"]
    keys += [f"TrainingData.{key}" for key in TrainingData.model_fields]
    return "\n".join(
        [
            *methods(),
            "",
            *wrapped("keys of every method (docs/configuration.md); a method's file explains its own keys:", keys),
            "",
            "example:",
            f"  python3 {script} --config configs/configSTPM.yaml data_path=my_data obj=screw",
        ]
    )


def methods() -> list[str]:
    """The methods, a line each, and the line above them."""
    lines = [f"  {method:<8}{file}: {title}" for method, file, title in recipes("configs", "distillType")]
    return ["methods (distillType) and the files with their complete recipes:", *lines]


def recipes(folder: str, key: str) -> Iterator[tuple[str, str, str]]:
    """(what `key` says, the file, what its first comment calls it) of every file of the toolkit's folder `folder`."""
    for path in sorted((ROOT / folder).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        found = re.search(rf"^{key}:\s*(\S+)", text, re.MULTILINE)
        title = re.match(r"#\s*(.*?\)|.*(?=[.,:;]))", text)
        if found:
            yield found[1], f"{folder}/{path.name}", title[1] if title else ""


def wrapped(title: str, words: list[str], width: int = 100) -> list[str]:
    """A title and below it the words, indented, as lines."""
    lines = [title, " "]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append(" ")
        lines[-1] += f" {word}"
    return lines


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """For argparse's `type`: a number from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch("[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high:,} (got '{shown}')")
        return int(text)

    return read


def run(main: Callable[[], None], sizes: str = SIZES) -> None:
    """Call `main`. A user's mistake ends with one sentence and exit code 2, Ctrl-C with one word and exit code 130.

    `sizes` names what to lower when there is not enough memory.
    """
    # Read when `main` imports torch: threads that wait for each other leave their cores to other processes.
    # The count (for GNU's OpenMP) lets them wait actively for a moment; without it a single training is 10 % slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    before = signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):  # a file name may be invalid text, a terminal may lack characters
        stream.reconfigure(errors="backslashreplace")
    try:
        code = _exit_code(main, sizes)
    except KeyboardInterrupt:
        _leave()
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        sys.exit(code)


def _exit_code(main: Callable[[], None], sizes: str) -> int:
    try:
        main()
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os._exit(CLOSED)
    except Exception as error:
        if rank() > 0:  # it repeats the first process's error, or says that process is missing
            time.sleep(FIRST_FAILS)
        sentence = explained(error, sizes)
        if sentence is None:
            raise
        print(f"error: {_short(sentence)}", file=sys.stderr)
        return 2


def explained(error: Exception, sizes: str) -> str | None:
    """The sentence for an error that the user can fix; None for any other error."""
    # The error of an image-reading process arrives wrapped in a traceback; the error itself comes last.
    text = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
    if isinstance(error, UserError):
        return text
    if is_memory(error):
        if is_of_gpu(error):
            return "out of GPU memory: lower batch_size or img_size"
        return f"out of memory: lower {sizes}"
    if isinstance(error, ModuleNotFoundError) and error.name and not _ours(error.name):
        of_model = any(word.partition("=")[0] == "--model" for word in sys.argv)
        file = "requirements-runtime.txt" if of_model else "requirements.txt"
        return f"the package {error.name} is missing: pip install -r {file}"
    if isinstance(error, UnicodeError):
        return f"a name or a file contains invalid text: {getattr(error, 'object', text)!r:.200}"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # nobody reads the output any more
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"cannot read or write{''.join(f' {name}' for name in names)}: {error.strerror or text}"
    return None


def is_memory(error: Exception) -> bool:
    """Whether an error says that there is too little memory, the computer's or the GPU's."""
    return isinstance(error, MemoryError) or bool(re.search(NO_MEMORY, str(error), re.IGNORECASE))


def is_of_gpu(error: Exception) -> bool:
    return bool(re.search("CUDA|HIP|MPS", str(error)))


def _ours(module: str) -> bool:
    name = module.partition(".")[0]
    return (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()


def _short(sentence: str) -> str:
    """The sentence without its middle if it is very long, as with a path of thousands of characters."""
    return sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST // 2]} ... {sentence[-LONGEST // 3 :]}"


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Python's own reaction to Ctrl-C, but exit at once while a module is being imported.

    No work has started then, and many libraries turn an interrupted import into an error of their own.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave() -> NoReturn:
    """Exit without waiting for worker threads: their results are no longer needed, and a traceback would not help."""
    if rank() == 0:
        os.write(2, b"\n" * os.isatty(2) + b"interrupted\n")  # a terminal shows ^C in front of it
    os._exit(INTERRUPTED)
