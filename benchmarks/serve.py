"""Load test of deploy/serve.py: clients on this machine, each with a connection of its own.

    python3 benchmarks/serve.py (RUN | --model DIR) FOLDER [--clients 1 4 16] [--seconds 10]

A client sends the images of FOLDER one after another, each when the last one is answered. In the last row there are
four clients for each place in the queue: status 503 is then an answer, after which a client waits a moment. A request
without an answer is lost, and ends with exit code 1.
"""

import argparse
import contextlib
import http.client
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from datasets.listing import list_images_below
from utils.command import run, whole_number
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "deploy.serve"]
SMALL = 4  # the queue of the server that gets too many requests
PAUSE = 0.02  # seconds after a 503


class Load(NamedTuple):
    """What clients saw in so many seconds. Status 0 is a request without an answer."""

    statuses: Counter
    milliseconds: list[float]  # of answers with status 200
    seconds: float

    def row(self, name: str) -> str:
        p50, p95 = np.quantile(self.milliseconds or [np.nan], [0.5, 0.95])
        others = sum(self.statuses.values()) - sum(self.statuses[status] for status in (200, 503, 0))
        rate = self.statuses[200] / self.seconds
        counts = " | ".join(str(count) for count in (self.statuses[503], others, self.statuses[0]))
        return f"| {name} | {rate:.1f} | {p50:.0f} | {p95:.0f} | {counts} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", metavar="RUN", help="a finished run")
    parser.add_argument("--model", metavar="DIR", help="a folder written by export.py, in place of RUN")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="images that clients send")
    parser.add_argument("--clients", type=whole_number(1, 10_000), nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    if (args.run is None) == (args.model is None):
        raise UserError("give RUN or --model DIR")
    bodies = [path.read_bytes() for path in list_images_below(args.folder)]
    if not bodies:
        raise UserError(f"FOLDER: there are no images in {args.folder}")
    lost, model = 0, [args.run] if args.model is None else ["--model", args.model]
    print("| clients | pictures per second | p50, ms | p95, ms | 503 | other | lost |\n|---|---|---|---|---|---|---|")
    for queue, counts in ((max(args.clients), args.clients), (SMALL, [4 * SMALL])):
        with served(model, queue) as port:
            load(port, bodies, 1, min(1, args.seconds))  # the first pictures are slower
            for count in counts:
                found = load(port, bodies, count, args.seconds)
                lost += found.statuses[0]
                print(found.row(f"{count}, queue of {queue}" if count > queue else f"{count}"), flush=True)
    sys.exit(lost > 0)


@contextlib.contextmanager
def served(model: list[str], queue: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [*COMMAND, *model, "--port", "0", "--queue", str(queue)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = re.search(r"listening on \S+:(\d+)", process.stdout.readline())
            if not port:
                raise UserError("RUN, --model: the server did not start; see above")
            yield int(port[1])
        finally:
            process.terminate()


def load(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    begin = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        jobs = [pool.submit(client, port, bodies[k:] + bodies[:k], begin + seconds) for k in range(clients)]
        answers = [answer for job in jobs for answer in job.result()]
    good = [1000 * duration for status, duration in answers if status == 200]
    return Load(Counter(status for status, _ in answers), good, time.monotonic() - begin)


def client(port: int, bodies: Sequence[bytes], end: float) -> list[tuple[int, float]]:
    """Statuses of its answers and the seconds that they took; at least one."""
    answers = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while not answers or time.monotonic() < end:
        begin = time.monotonic()
        status = posted(connection, bodies[len(answers) % len(bodies)])
        answers.append((status, time.monotonic() - begin))
        if status == 503:
            time.sleep(PAUSE)
    connection.close()
    return answers


def posted(connection: http.client.HTTPConnection, body: bytes) -> int:
    try:
        connection.request("POST", "/predict", body)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        return 0


if __name__ == "__main__":
    run(main)
