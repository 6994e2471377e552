"""Judge pictures over HTTP with a finished run: POST a picture's bytes, get its score, decision and regions as JSON.

python3 deploy/serve.py results/st/screw
curl --data-binary @part.png "http://127.0.0.1:8000/predict?name=part.png"
"""

import argparse
import asyncio
import base64
import contextlib
import io
import os
import secrets
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if not __package__:  # started as a file, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from datasets.images import count_pixels, image_from
from deploy.judge import Judge, Prediction, batches, open_judge, too_large
from deploy.pictures import overlay, png
from deploy.results import described
from utils.command import Flags, run, whole_number
from utils.console import note, say
from utils.cores import allowed_cores
from utils.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

GATHER = 0.003  # seconds that a picture waits for others of its batch, at most
PATIENCE = 30  # seconds that a request's body may take
STUCK = 300  # seconds of one batch after which the server calls itself unhealthy
LATEST = 1000  # answers that the quantiles of /metrics are of
LAST_WAIT = 5  # seconds for the current batch when the server ends; one that hangs must not keep it alive
# Its timeouts in seconds; a connection may be idle for longer than the time between two parts.
UVICORN = {"log_level": "warning", "timeout_keep_alive": 75, "timeout_graceful_shutdown": PATIENCE}
UNNAMED = "the picture"  # the name of one in messages
TOKEN = "ANOMALY_TOKEN"  # the environment variable


def main() -> None:
    args = flags().parse_intermixed_args()
    token = args.token if args.token is not None else os.environ.get(TOKEN)
    if token is not None and not (token and token.isascii() and token.isprintable() and token == token.strip()):
        raise UserError(f"--token (or {TOKEN}): must be some printable ASCII characters, without spaces at its ends")
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError("the server needs two more packages: pip install -r requirements-serve.txt") from None
    with listening(args.host, args.port) as place:
        judge = judge_of(args)
        if not judge.calibration and not judge.explained:
            note("there is no calibration, so pictures are scored and nothing is decided: see calibrate.py")
        if token is None and not place.getsockname()[0].startswith(("127.", "::1")):
            note(f"{args.host} is reachable from other machines, and without --token anybody there may use this server")
        limits = Limits(args.queue, args.max_bytes, args.max_pixels)
        app = application(judge, limits, token)
        server = uvicorn.Server(uvicorn.Config(app, **UVICORN))
        say(f"listening on {address(place)}, Ctrl-C ends it")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):  # it has finished its answers, and raises this again
            server.run(sockets=[place])


def flags() -> argparse.ArgumentParser:
    parser = Flags(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="RUN", help="the folder of a finished run; then key=value words")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a folder written by export.py, in place of RUN")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--token",
        help="requests must have the header 'Authorization: Bearer TOKEN'; "
        f"others on this machine can see it in the command line, but not in the environment variable {TOKEN}",
    )
    for flag, default, what in zip(
        ("--queue", "--max-bytes", "--max-pixels"),
        Limits(),
        (
            "largest number of requests in work or waiting; others get status 503",
            "largest size of a picture's file in bytes; larger files get status 413",
            "largest number of pixels of a picture; larger pictures get status 400",
        ),
        strict=True,
    ):
        number = whole_number(1, 10**12)
        parser.add_argument(flag, type=number, default=default, metavar="N", help=f"{what} (default: {default:,})")
    return parser


def judge_of(args: argparse.Namespace) -> Judge:
    """Of a run or an exported model. Raises UserError for both, for none, and as they do."""
    words = [word for word in args.words if "=" not in word or os.path.exists(word)]
    overrides = [word for word in args.words if word not in words]
    if len(words) != (args.model is None):
        raise UserError("give the folder of one run, such as results/st/screw, or --model DIR")
    return open_judge(words[0] if words else None, args.model, overrides)


def listening(host: str, port: int) -> socket.socket:
    """Raises UserError if that is not possible, before networks are loaded."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host, --port: cannot listen on {host}:{port}: {why}") from None


def address(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Limits(NamedTuple):
    """What the server accepts; see the flags of the same names."""

    queue: int = 64
    max_bytes: int = 32_000_000
    max_pixels: int = 50_000_000


class Refused(Exception):
    """A request that is answered with an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str, **headers: str):
        super().__init__(sentence)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}


class Job(NamedTuple):
    """A picture as the bytes of its file, and the answer that somebody waits for: a line of predictions.jsonl."""

    data: bytes
    name: str
    overlay: bool  # whether the answer also has the overlay
    answer: "Future[dict[str, Any]]"


class Desk:
    """A thread that judges the pictures of all requests, in batches. It is a context: the thread ends with it.

    Pictures wait as the bytes of their files. Only those of one batch are in memory with their maps: the next batch
    begins when all overlays of this one are drawn.
    """

    def __init__(self, judge: Judge, max_pixels: int):
        self.judge, self.max_pixels = judge, max_pixels
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self.remarks: set[str] = set()
        self.batches, self.begin = 0, 0.0  # `begin` of the current batch; 0 while there is none

    def __enter__(self) -> "Desk":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.jobs.put(None)
        self.thread.join(LAST_WAIT)

    @property
    def healthy(self) -> bool:
        begin = self.begin
        return self.thread.is_alive() and (not begin or time.monotonic() - begin < STUCK)

    def put(self, data: bytes, name: str, overlay: bool) -> "Future[dict[str, Any]]":
        """The future raises UserError if these are not an image's bytes."""
        job = Job(data, name, overlay, Future())
        self.jobs.put(job)
        return job.answer

    def _work(self) -> None:
        with ThreadPoolExecutor(min(allowed_cores(), self.judge.batch_size)) as pool:
            for jobs in iter(self._gather, []):
                self._judge(jobs, pool)

    def _judge(self, jobs: list[Job], pool: ThreadPoolExecutor) -> None:
        """Empties the list: an answer, with its map, is larger than the picture, and stays as long as its job."""
        pixels = [count_pixels(io.BytesIO(job.data)) for job in jobs]
        for batch in batches((jobs.pop(0) for _ in pixels), pixels):
            self.begin = time.monotonic()
            self._answer([job for job in batch if job.answer.set_running_or_notify_cancel()], pool)
            self.begin = 0.0

    def _gather(self) -> list[Job]:
        """The next batch; empty at the end."""
        jobs, end = [self.jobs.get()], time.monotonic() + GATHER
        with contextlib.suppress(Empty):
            while jobs[-1] is not None and len(jobs) < self.judge.batch_size:
                jobs.append(self.jobs.get(timeout=max(0.0, end - time.monotonic())))
        if jobs[-1] is None and len(jobs) > 1:
            self.jobs.put(jobs.pop())
        return [job for job in jobs if job is not None]

    def _answer(self, jobs: list[Job], pool: ThreadPoolExecutor) -> None:
        """Whatever fails, each job has its answer, and the thread goes on."""
        try:
            read = []
            for job, result in zip(jobs, pool.map(self._read, jobs), strict=True):
                if isinstance(result, Exception):
                    job.answer.set_exception(result)
                else:
                    read.append((job, result))
            if not read:
                return
            self.batches += 1
            found = self.judge.predict_each([picture for _, picture in read])
            list(pool.map(self._finish, [job for job, _ in read], found))
        except Exception as error:
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)

    def _read(self, job: Job) -> np.ndarray | Exception:
        name = job.name or UNNAMED
        try:
            picture = image_from(job.data, name, self._remark, self.max_pixels)
            return self.judge.checked(picture, name, self._remark)
        except MemoryError:
            return Refused(503, str(too_large(name)))
        except Exception as error:
            return error

    def _remark(self, sentence: str) -> None:
        """Say each sentence once, without the name of its picture: strangers give those."""
        if sentence not in self.remarks:
            self.remarks.add(sentence)
            note(f"a picture that was sent: {sentence} (later ones get no such note)")

    def _finish(self, job: Job, found: Prediction | None) -> None:
        try:
            if found is None:
                raise Refused(503, str(too_large(job.name or UNNAMED)))
            row = described(self.judge, job.name, found)
            if job.overlay:
                row["overlay"] = self._overlay(found)
            job.answer.set_result(row)
        except Exception as error:  # others of the batch have no overlay
            job.answer.set_exception(error)

    def _overlay(self, found: Prediction) -> str | None:
        try:
            return base64.b64encode(png(overlay(self.judge, found))).decode()
        except MemoryError:  # the decision counts
            return None


class Service:
    """What is behind /predict; it refuses what exceeds the limits. All of it runs in one event loop."""

    def __init__(self, judge: Judge, limits: Limits):
        self.judge, self.limits, self.desk = judge, limits, Desk(judge, limits.max_pixels)
        self.inside = 0  # requests that wait or are answered

    async def predict(self, body: AsyncIterator[bytes], length: int, name: str, overlay: bool) -> dict[str, Any]:
        """A line of predictions.jsonl, and perhaps the overlay, for a body of the announced length; 0 if unknown.

        Raises Refused.
        """
        if self.inside >= self.limits.queue:
            raise Refused(503, "too many requests wait; try again later", Retry_After="1")
        self.inside += 1
        try:
            data = await self._data(body, length)
            return await asyncio.wrap_future(self.desk.put(data, name, overlay))
        except UserError as error:
            raise Refused(400, str(error)) from None
        except asyncio.CancelledError:  # by uvicorn, when its patience at the end is over
            raise Refused(503, "the server is being stopped") from None
        finally:
            self.inside -= 1

    async def _data(self, body: AsyncIterator[bytes], length: int) -> bytes:
        async def read() -> bytes:
            data = bytearray()
            async for part in body:
                self._check(len(data) + len(part))
                data += part
            return bytes(data)

        self._check(length)  # before it is sent
        try:
            return await asyncio.wait_for(read(), PATIENCE)
        except asyncio.TimeoutError:
            raise Refused(408, f"the picture took longer than {PATIENCE} seconds to arrive") from None

    def _check(self, length: int) -> None:
        if length > self.limits.max_bytes:
            raise Refused(413, f"the picture has more than {self.limits.max_bytes:,} bytes")


class Metrics:
    """Counters and a summary in the text format of Prometheus."""

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        self.decisions: Counter[str] = Counter()
        self.latest: deque[float] = deque(maxlen=LATEST)
        self.seconds = 0.0

    def judged(self, decision: str | None, seconds: float) -> None:
        self.answers[200] += 1
        self.decisions[decision or "none"] += 1
        self.latest.append(seconds)
        self.seconds += seconds

    def text(self, service: Service) -> str:
        return "".join(f"{line}\n" for line in self._lines(service))

    def _lines(self, service: Service) -> Iterator[str]:
        yield from ("# HELP anomaly_answers_total Answers by HTTP status.", "# TYPE anomaly_answers_total counter")
        yield from (f'anomaly_answers_total{{status="{key}"}} {n}' for key, n in sorted(self.answers.items()))
        yield from ("# HELP anomaly_decisions_total Pictures by decision.", "# TYPE anomaly_decisions_total counter")
        yield from (f'anomaly_decisions_total{{decision="{key}"}} {n}' for key, n in sorted(self.decisions.items()))
        yield from ("# HELP anomaly_batches_total Batches of pictures judged.", "# TYPE anomaly_batches_total counter")
        yield f"anomaly_batches_total {service.desk.batches}"
        yield from ("# HELP anomaly_requests Requests being answered.", "# TYPE anomaly_requests gauge")
        yield f"anomaly_requests {service.inside}"
        yield f"# HELP anomaly_seconds Time to answer; quantiles of the latest {LATEST} pictures."
        yield "# TYPE anomaly_seconds summary"
        if self.latest:
            for share in (0.5, 0.95, 0.99):
                yield f'anomaly_seconds{{quantile="{share}"}} {np.quantile(list(self.latest), share):.6f}'
        yield f"anomaly_seconds_sum {self.seconds:.6f}"
        yield f"anomaly_seconds_count {sum(self.decisions.values())}"


def application(judge: Judge, limits: Limits, token: str | None = None) -> "FastAPI":
    """The routes: POST /predict, GET /health, GET /metrics. Every error is JSON with a sentence, `error`."""
    from fastapi import Depends, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    service, metrics = Service(judge, limits), Metrics()

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        with service.desk:
            yield

    async def check_token(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        sent = f"{scheme.lower()} {given.strip()}"
        if token is not None and not secrets.compare_digest(sent.encode(), f"bearer {token}".encode()):
            raise Refused(401, "a header 'Authorization: Bearer TOKEN' is needed", WWW_Authenticate="Bearer")

    app, known = FastAPI(lifespan=life, openapi_url=None), [Depends(check_token)]

    @app.post("/predict", dependencies=known)
    async def predict(request: Request, name: str = "", overlay: bool = False) -> JSONResponse:
        begin = time.perf_counter()
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise Refused(415, "send the picture's bytes alone as the body, as with curl --data-binary @part.png")
        length = int(request.headers.get("content-length", 0))
        row = await service.predict(request.stream(), length, name, overlay)
        metrics.judged(row["decision"], time.perf_counter() - begin)
        return JSONResponse(row)

    @app.get("/health")
    async def health() -> JSONResponse:
        healthy = service.desk.healthy
        return JSONResponse({"status": "ok" if healthy else "stuck"}, 200 if healthy else 503)

    @app.get("/metrics", dependencies=known)
    async def numbers() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(service), media_type="text/plain; version=0.0.4")

    def answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        metrics.answers[status] += 1
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, "the connection ended before the picture did")

    @app.exception_handler(Exception)  # uvicorn writes the traceback
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "the server failed, and its log says why")

    return app


if __name__ == "__main__":
    run(main)
