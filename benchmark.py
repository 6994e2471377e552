"""Compare methods, categories, teachers and seeds on one data set, with ordinary runs."""

import argparse
import contextlib
import json
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from utils.command import SOME_FAILED, Flags, run, whole_number
from utils.errors import UserError

if TYPE_CHECKING:
    from dask.distributed import Client

    from engine.cells import Cell
    from engine.study import Study

DEMO = Path("demo_data")
NO_COST = {"epochs", "steps", "batch_size", "lr"}  # of TrainingData: not of an image that is judged
ANSWER = 10  # seconds in which the scheduler of a cluster must answer


def main() -> None:
    args = flags()

    from datasets.readers import AUTO
    from engine.categories import categories
    from engine.cells import plan
    from utils.config_file import read_config
    from utils.console import say
    from utils.files import check_writable

    study = study_of(args)
    check_writable(Path(study.save_path), "save_path")
    reader = read_config({}, [*study.words, *args.words]).get("reader", AUTO)
    cells = plan(study, categories(Path(study.data_path), study.obj, reader), checked)
    check_categories([cell for cell in cells if not cell.mistake])
    failed = run_all(cells, args)
    if done := [cell for cell in cells if cell.finished()]:
        write(done, study)
    if failed:
        say(
            f"{failed} of {len(cells)} runs failed; the same command tries only {'it' if failed == 1 else 'them'} again"
        )
        sys.exit(SOME_FAILED)


def checked(file: str, words: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run, as its metrics.json will have it. Raises UserError for a mistake."""
    from trainer import read_run

    return read_run(file, words)[1].model_dump(mode="json")


def check_categories(cells: Sequence["Cell"]) -> None:
    """Raises UserError for a category that is nowhere, before anything is trained."""
    from datasets.readers.layout import no_category
    from engine.categories import categories

    listed = [cell.config for cell in cells if cell.config["reader"] != "folder" and not cell.config["folder"]["good"]]
    for data_path, reader, obj in {tuple(config[key] for key in ("data_path", "reader", "obj")) for config in listed}:
        if not Path(data_path, obj).exists() and obj not in (known := categories(Path(data_path), "all", reader)):
            raise no_category(data_path, obj, known)


def run_all(cells: Sequence["Cell"], args: argparse.Namespace) -> int:
    """Run the cells that are not finished; returns how many failed, each with a note."""
    from engine.cells import run_cells
    from utils.console import note, say
    from utils.progress import progress

    waiting, failed = [cell for cell in cells if not cell.finished()], 0
    with backend(args, max(1, len(waiting))) as (jobs, threads), progress(None, "runs", len(cells)) as bar:
        say(f"{len(cells)} runs, {len(cells) - len(waiting)} of them finished; {jobs} at once")
        bar.update(len(cells) - len(waiting))
        for cell, error in run_cells(waiting, jobs, threads):
            bar.update()
            if error:
                failed += 1
                note(f"{cell.name}: {error}")
    return failed


def write(cells: Sequence["Cell"], study: "Study") -> None:
    """The tables and the page of finished cells, in the study's save_path."""
    from engine.cells import finished_report
    from evaluation.html_benchmark import write_benchmark
    from evaluation.tables import lines, results_of, write_tables
    from utils.console import say

    costs, reports = spent(cells), [finished_report(cell.folder) for cell in cells]
    found = [results_of(*cell[:4], cell.folder, *pair) for cell, *pair in zip(cells, reports, costs, strict=True)]
    results, defects = [run for run, *_ in found], [each for _, *types in found for each in types]
    folder, command = Path(study.save_path), f"cd {shlex.quote(str(Path.cwd()))}\n{shlex.join(['python3', *sys.argv])}"
    table = lines(results)
    say(write_tables(folder, table, results, defects))
    settings = study.model_dump(mode="json", exclude_defaults=True)
    write_benchmark(folder / "benchmark.html", table, results, [cell.folder for cell in cells], command, settings)
    say(f"\nall of it on one page: {folder}/benchmark.html; as tables: benchmark.md, .csv and .tex there")


def flags() -> argparse.Namespace:
    parser = Flags(description=__doc__)
    parser.add_argument("--study", metavar="FILE", help="a YAML file with these values and more (docs/benchmark.md)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="such as st rd")
    parser.add_argument("--obj", nargs="+", metavar="CATEGORY", help="categories (default: all)")
    parser.add_argument(
        "--teachers",
        nargs="+",
        metavar="TEACHER",
        help="BACKBONE=WEIGHTS, such as tf_efficientnet_lite0.in1k=imagenet, or one of the two; 'default': that of the "
        "method's file",
    )
    parser.add_argument("--seeds", type=whole_number(1, 1000), metavar="N", help="seeds 0, 1, ... (default: 3 of them)")
    parser.add_argument("--data_path", help="folder of categories (default: the demo data)")
    parser.add_argument("--save_path", help="(default: results/benchmark)")
    parser.add_argument(
        "--jobs", type=whole_number(1, 10_000), help="runs at once (default: one per core, or one on a GPU)"
    )
    parser.add_argument(
        "--backend", choices=["loky", "dask", "ray"], default="loky", help="local processes (loky), or a cluster"
    )
    parser.add_argument("--address", help="address of the cluster's scheduler (default: a local one is started)")
    parser.add_argument("words", nargs="*", metavar="key=value", help="for every run, such as TrainingData.epochs=50")
    args = parser.parse_intermixed_args()
    for key in ("methods", "obj", "teachers"):  # words right behind such a flag
        given = getattr(args, key) or []
        words = [name for name in given if "=" in name and (key != "teachers" or _is_setting(name))]
        args.words = words + args.words
        setattr(args, key, [name for name in given if name not in words] or None)
    if wrong := [word for word in args.words if "=" not in word]:
        raise UserError(f"command line: {wrong[0]!r} is not of the form key=value")
    return args


def _is_setting(word: str) -> bool:
    """Whether a word behind --teachers is key=value, not BACKBONE=WEIGHTS."""
    from utils.config import Config

    return word.partition("=")[0].partition(".")[0] in {*Config.model_fields, "training_data"}


def study_of(args: argparse.Namespace) -> "Study":
    """What the file and the flags say, with paths that a cluster's machines find too."""
    from engine.study import Study, read_study

    obj = "all" if args.obj == ["all"] else args.obj
    given = {key: getattr(args, key) for key in Study.model_fields if key not in ("words", "where")} | {"obj": obj}
    study = read_study(args.study, given, args.words)
    data_path, save_path = Path(study.data_path), Path(study.save_path).absolute()
    paths = {"data_path": str(data_path if data_path == DEMO else data_path.absolute()), "save_path": str(save_path)}
    return study.model_copy(update=paths)


@contextlib.contextmanager
def backend(args: argparse.Namespace, most: int) -> Iterator[tuple[int, int]]:
    """joblib's backend; yields how many of `most` runs are done at once, and the threads of each.

    A cluster's machines must see the toolkit and the data in the same places.
    """
    import joblib
    import torch

    from utils.cores import allowed_cores

    jobs = min(args.jobs or (1 if torch.cuda.is_available() else allowed_cores()), most)
    threads = max(1, allowed_cores() // jobs)
    if args.address:
        check_answers(args.address)
    with contextlib.ExitStack() as stack:
        try:
            if args.backend == "dask":
                from dask.distributed import Client

                # joblib starts a run on each thread of each worker, whatever number it is told.
                local = {"n_workers": jobs, "threads_per_worker": 1}
                client = stack.enter_context(Client(args.address) if args.address else Client(**local))
                jobs, threads = shares(client) if args.address else (jobs, threads)
            elif args.backend == "ray":
                import ray
                from ray.util.joblib import register_ray

                ray.init(address=args.address, num_cpus=None if args.address else jobs)
                stack.callback(ray.shutdown)
                register_ray()
                if args.address:
                    cores = int(ray.cluster_resources()["CPU"])
                    jobs, threads = args.jobs or cores, max(1, cores // (args.jobs or cores))
        except ImportError as error:
            raise UserError(f"--backend {args.backend}: {error}: pip install -r requirements-cluster.txt") from None
        stack.enter_context(joblib.parallel_config(backend=args.backend))
        yield jobs, threads


def check_answers(address: str) -> None:
    """Raises UserError if nothing listens there; Dask and Ray would wait for minutes."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), ANSWER).close()
    except ValueError as error:
        raise UserError(f"--address: {address} is not an address ({error})") from None
    except OSError as error:
        raise UserError(f"--address: nothing answers at {address} ({error.strerror or error})") from None


def shares(client: "Client") -> tuple[int, int]:
    """The threads of a Dask cluster's workers, which are the runs at once, and the cores that each of them may use."""
    from utils.cores import allowed_cores

    slots, cores = client.ncores(), client.run(allowed_cores)  # by worker
    by_host: dict[str, int] = {}
    for worker, count in slots.items():
        host = worker.rpartition(":")[0]
        by_host[host] = by_host.get(host, 0) + count
    return sum(slots.values()), max(1, min(cores[worker] // by_host[worker.rpartition(":")[0]] for worker in slots))


def spent(cells: Sequence["Cell"]) -> list[dict[str, float]]:
    """What the training of each cell cost, and an image; the latter is measured once for all that compute alike."""
    from engine.cells import CELL, read_cell
    from utils.files import write_json

    found, costs = [], {}
    for cell in cells:
        kind, own = cost_key(cell), read_cell(cell)
        if kind not in costs:
            costs[kind] = own.get("image") or measured(cell)
            write_json(cell.folder / CELL, own | ({"image": costs[kind]} if costs[kind] else {}))
        found.append(own | costs[kind])
    return found


def cost_key(cell: "Cell") -> str:
    """The same for cells whose networks and images have the same sizes."""
    options = {key: value for key, value in cell.config["TrainingData"].items() if key not in NO_COST}
    names = ("distillType", "backbone", "out_indice", "precision", "device")  # not every method has all
    return json.dumps([options, *(cell.config.get(name) for name in names)], sort_keys=True)


def measured(cell: "Cell") -> dict[str, float]:
    """What judging an image costs; nothing, and a note, if that cannot be measured here."""
    from deploy.cost import cost_of
    from utils.console import note

    try:
        return cost_of(cell.folder)
    except UserError as error:  # of another machine's device, for example
        note(f"{cell.name}: no latency: {error}")
        return {}


if __name__ == "__main__":
    run(main)
