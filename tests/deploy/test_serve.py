"""The server over real connections, with a judge of brightness in place of networks."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from deploy import judge as module
from deploy import serve
from deploy.results import described
from deploy.serve import Limits
from tests.conftest import REPO, run_script
from tests.deploy.brightness import Brightness, plain
from trainer import build_trainer
from utils.errors import UserError


class Held(Brightness):
    """Its networks wait until `go` is set."""

    def __init__(self, batch_size=4):
        super().__init__(batch_size)
        self.go, self.busy = threading.Event(), threading.Event()

    def maps_of(self, images):
        self.busy.set()
        assert self.go.wait(20)
        return super().maps_of(images)


def png(value=200, size=16):
    return cv2.imencode(".png", plain(value, size))[1].tobytes()


def ask(port, path="/predict", body=None, method="POST", **headers):
    """(status, answer, headers); the answer is parsed if it is JSON."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if text.startswith("{") else text, response.headers


@pytest.fixture
def served():
    """served(judge, limits, token) -> the port of a server that runs in a thread."""
    with contextlib.ExitStack() as stack:

        def start(judge, limits=None, token=None):
            place = stack.enter_context(serve.listening("127.0.0.1", 0))
            server = uvicorn.Server(
                uvicorn.Config(serve.application(judge, limits or Limits(), token), **serve.UVICORN)
            )
            thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
            thread.start()
            stack.callback(thread.join)
            start.end = partial(setattr, server, "should_exit", True)  # as SIGTERM does
            stack.callback(start.end)
            return place.getsockname()[1]

        yield start


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def waiting(port):
    """The number of requests that the server is answering."""
    return int(ask(port, "/metrics", method="GET")[1].partition("\nanomaly_requests ")[2].split()[0])


def test_the_answer_is_the_line_that_predict_writes(served):
    judge = Brightness()
    port = served(judge)
    for value in (100, 200):
        status, row, _ = ask(port, "/predict?name=a%20b.png", png(value))
        expected = described(judge, "a b.png", judge(plain(value)))
        assert status == 200 and row == json.loads(json.dumps(expected)) | {"milliseconds": row["milliseconds"]}
    assert row["decision"] == "reject" and row["regions"][0]["box"] == [0, 0, 16, 16]


def test_the_overlay_has_the_size_of_the_picture(served):
    picture = plain(0, 40)
    picture[8:24, 8:24] = 255
    status, row, _ = ask(served(Brightness()), "/predict?overlay=true", cv2.imencode(".bmp", picture)[1].tobytes())
    overlay = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["overlay"]))))
    assert status == 200 and overlay.shape == picture.shape and (overlay != picture).any()


def together(port, judge, count):
    """The answers to pictures that arrive while the first one is judged."""
    with ThreadPoolExecutor(count) as pool:
        first = pool.submit(ask, port, body=png(0))
        judge.busy.wait(20)
        others = [pool.submit(ask, port, body=png(30 * k)) for k in range(1, count)]
        wait_until(lambda: waiting(port) == count)
        time.sleep(0.05)  # for the bodies; some may still be late
        judge.go.set()
        return [job.result() for job in (first, *others)]


def test_requests_that_arrive_together_share_batches_and_get_their_own_answers(served):
    judge = Held(batch_size=4)
    answers = together(served(judge), judge, 7)
    assert [status for status, *_ in answers] == [200] * 7
    assert [row["score"] for _, row, _ in answers] == pytest.approx([30 * k / 255 for k in range(7)])
    assert judge.batches[0] == 1 and max(judge.batches) <= 4 and len(judge.batches) <= 4 and sum(judge.batches) == 7


def test_large_pictures_that_arrive_together_are_judged_in_smaller_batches(served, monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 2 * 16**2)
    judge = Held(batch_size=8)
    answers = together(served(judge), judge, 6)
    assert [row["score"] for _, row, _ in answers] == pytest.approx([30 * k / 255 for k in range(6)])
    assert max(judge.batches) == 2 and sum(judge.batches) == 6


def test_a_judge_that_hangs_does_not_keep_the_server_alive(monkeypatch):
    monkeypatch.setattr(serve, "LAST_WAIT", 0.1)
    judge, free = Brightness(8), threading.Event()
    judge.predict = lambda pictures: free.wait()
    with serve.Desk(judge, 10**6) as desk:
        desk.put(png(0), "", False)
    assert desk.thread.is_alive()
    free.set()


def test_an_answer_that_was_given_is_not_kept_while_the_next_pictures_are_judged(monkeypatch):
    """Its map and mask are larger than the picture."""
    monkeypatch.setattr(module, "MOST_PIXELS", 16**2)
    judge, given, kept = Brightness(8), [], []
    predict = judge.predict

    def watched(pictures):
        kept.append(sum(mask() is not None for mask in given))
        found = predict(pictures)
        given.extend(weakref.ref(one.mask) for one in found)
        return found

    judge.predict, desk = watched, serve.Desk(judge, 10**6)
    for k in range(4):
        desk.put(png(k), "", False)
    with desk:
        pass
    assert kept == [0, 0, 0, 0]


def test_the_next_pictures_are_judged_when_all_overlays_are_drawn(served, monkeypatch):
    """Drawing takes longer than judging, and a queue of large pictures with their maps would fill the memory."""
    monkeypatch.setattr(module, "MOST_PIXELS", 16**2)
    judge, given, kept = Brightness(), [], []
    predict, overlay = judge.predict, serve.overlay

    def watched(pictures):
        kept.append(sum(mask() is not None for mask in given))
        found = predict(pictures)
        given.extend(weakref.ref(one.mask) for one in found)
        return found

    judge.predict = watched
    monkeypatch.setattr(serve, "overlay", lambda *found: time.sleep(0.1) or overlay(*found))
    port = served(judge)
    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(ask, port, "/predict?overlay=true", png(200)) for _ in range(5)]
        assert all(job.result()[1]["overlay"] for job in jobs)
    assert len(kept) == 5 and max(kept) <= 1  # the thread that drew the last one may not have forgotten it yet


def answers_of_one_batch(port, judge, *queries):
    """Status and answer of a first request, and of these that arrive together while it is judged."""
    with ThreadPoolExecutor(1 + len(queries)) as pool:
        first = pool.submit(ask, port, body=png())
        judge.busy.wait(20)
        others = [pool.submit(ask, port, f"/predict?{query}", png()) for query in queries]
        wait_until(lambda: waiting(port) == 1 + len(queries))
        judge.go.set()
        return [job.result()[:2] for job in (first, *others)]


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, 500), (MemoryError, 200)])
def test_a_failure_while_one_overlay_is_drawn_is_its_answer_only(error, status, served, monkeypatch, capfd):
    def fails(*found):
        raise error

    monkeypatch.setattr(serve, "overlay", fails)
    port = served(judge := Held())
    (first, _), (failed, answer), (other, _) = answers_of_one_batch(port, judge, "overlay=true", "overlay=false")
    assert (first, failed, other) == (200, status, 200)
    if error is MemoryError:  # the decision counts
        assert answer["overlay"] is None
    else:  # it is written after the answer
        wait_until(lambda: "ZeroDivisionError" in capfd.readouterr().err)


def test_a_full_queue_is_answered_at_once_and_nothing_is_lost(served):
    judge = Held()
    port = served(judge, Limits(queue=3))
    with ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(ask, port, body=png()) for _ in range(3)]
        wait_until(lambda: waiting(port) == 3)
        for body in (png(), bytes(5_000_000)):
            status, answer, headers = ask(port, body=body)
            assert status == 503 and "too many requests" in answer["error"] and headers["Retry-After"] == "1"
        judge.go.set()
        assert [job.result()[0] for job in inside] == [200] * 3
    assert ask(port, body=png())[0] == 200


def test_bytes_that_are_no_picture_are_refused_and_others_of_the_batch_are_judged(served):
    judge = Held()
    port = served(judge)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, port, body=png())
        judge.busy.wait(20)
        bodies = {"/predict?name=half.png": png()[:50], "/predict": b"", "/predict?name=c.png": png()}
        jobs = [pool.submit(ask, port, path, body) for path, body in bodies.items()]
        wait_until(lambda: waiting(port) == 4)
        judge.go.set()
        half, empty, good = (job.result() for job in jobs)
        assert first.result()[0] == good[0] == 200 and half[0] == empty[0] == 400
    assert half[1]["error"].startswith("half.png: cannot be read as an image")
    assert empty[1]["error"] == "the picture: cannot be read as an image (the file is empty)"
    assert judge.batches == [1, 1]


def test_that_only_the_first_page_is_judged_is_said_once(served, capfd):
    pages, data = [Image.fromarray(plain(value)) for value in (0, 255)], io.BytesIO()
    pages[0].save(data, "TIFF", save_all=True, append_images=pages[1:])
    port = served(Brightness())
    assert [ask(port, body=data.getvalue())[1]["score"] for _ in range(2)] == [0, 0]
    assert capfd.readouterr().err.count("only the first of its pages or frames is read") == 1


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}])
def test_a_large_body_is_refused(served, headers):
    port = served(Brightness(), Limits(max_bytes=1000))
    body = iter([bytes(600)] * 1000) if headers else bytes(5_000_000)
    status, answer, _ = ask(port, "/predict", body, **headers)
    assert (status, answer["error"]) == (413, "the picture has more than 1,000 bytes")
    assert ask(port, body=png())[0] == 200


def test_a_small_file_with_too_many_pixels_is_refused(served):
    port = served(Brightness(), Limits(max_pixels=999))
    status, answer, _ = ask(port, body=png(size=32))
    assert status == 400 and "32 x 32 pixels; at most 999 in all" in answer["error"]


def test_a_token_is_needed_if_one_is_set(served):
    port = served(Brightness(), token="secret")
    for given in (None, "Bearer wrong", "Bearer \xe9", "secret"):
        headers = {"Authorization": given} if given else {}
        for path, method in (("/predict", "POST"), ("/metrics", "GET")):
            status, answer, answered = ask(port, path, None, method, **headers)
            assert status == 401 and "Authorization" in answer["error"] and answered["WWW-Authenticate"] == "Bearer"
    for scheme in ("Bearer", "bearer", "BEARER "):  # in any case, says RFC 9110, and with spaces after it
        assert ask(port, body=png(), Authorization=f"{scheme} secret")[0] == 200
    assert ask(port, "/health", method="GET")[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("/predict?overlay=maybe", "POST", {}, (422, "overlay: Input should be a valid boolean")),
        ("/predict", "POST", {"Content-Type": "multipart/form-data; boundary=x"}, (415, "--data-binary")),
        ("/predict", "GET", {}, (405, "Method Not Allowed")),
        ("/nothing", "GET", {}, (404, "Not Found")),
    ],
)
def test_other_mistakes_have_a_sentence_too(served, path, method, headers, expected):
    status, answer, _ = ask(served(Brightness()), path, None, method, **headers)
    assert status == expected[0] and expected[1] in answer["error"]


def test_a_picture_that_does_not_arrive_holds_its_place_only_for_a_while(served, monkeypatch):
    monkeypatch.setattr(serve, "PATIENCE", 0.1)
    port = served(Brightness(), Limits(queue=1))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nhalf")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as gone:
        gone.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nhalf")
    wait_until(lambda: waiting(port) == 0)
    assert ask(port, body=png())[0] == 200


def test_a_failure_of_the_networks_is_an_answer_and_the_next_picture_is_judged(served, capfd):
    judge = Brightness()
    port, maps_of = served(judge), judge.maps_of
    judge.maps_of = lambda images: 1 / 0
    status, answer, _ = ask(port, body=png())
    assert status == 500 and answer == {"error": "the server failed, and its log says why"}
    judge.maps_of = maps_of
    assert ask(port, body=png())[0] == 200
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [(MemoryError, 503, "large.png: there is too little memory"), (ZeroDivisionError, 500, "its log says why")],
)
def test_a_failure_while_one_picture_is_read_is_its_answer_only(error, status, sentence, served, monkeypatch, capfd):
    def image_from(data, name, *limits, real=serve.image_from):
        if name == "large.png":
            raise error
        return real(data, name, *limits)

    monkeypatch.setattr(serve, "image_from", image_from)
    port = served(judge := Held())
    answers = answers_of_one_batch(port, judge, "name=large.png", "name=small.png")
    assert [status for status, _ in answers] == [200, status, 200]
    assert sentence in answers[1][1]["error"] and ("ZeroDivisionError" in capfd.readouterr().err) == (status == 500)
    assert ask(port, "/health", method="GET")[0] == 200


def test_too_little_memory_for_a_batch_is_enough_for_its_pictures_one_by_one(served):
    class Small(Held):
        room = 1

        def maps_of(self, images):
            if len(images) > self.room:
                raise MemoryError
            return super().maps_of(images)

    port = served(judge := Small())
    answers = answers_of_one_batch(port, judge, "name=a.png", "name=b.png")
    assert [(status, answer["path"]) for status, answer in answers[1:]] == [(200, "a.png"), (200, "b.png")]
    judge.room = 0
    assert ask(port, body=png())[:2] == (503, {"error": "the picture: there is too little memory for this picture"})
    judge.room = 1
    assert ask(port, body=png())[0] == 200


def test_a_reader_that_cannot_start_is_an_answer_and_the_next_picture_is_judged(served, monkeypatch):
    port = served(Brightness())

    def no_thread(*args):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(serve.ThreadPoolExecutor, "map", no_thread)
        assert ask(port, body=png())[0] == 500
    assert ask(port, body=png())[0] == 200


def test_who_waits_when_the_server_stops_is_told_so(served, monkeypatch, capfd):
    monkeypatch.setitem(serve.UVICORN, "timeout_graceful_shutdown", 0.1)
    port = served(judge := Held())
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(ask, port, body=png())
        judge.busy.wait(20)
        served.end()
        try:
            assert job.result()[:2] == (503, {"error": "the server is being stopped"})
        finally:
            judge.go.set()
    assert "Traceback" not in capfd.readouterr().err


def test_health_is_bad_while_a_batch_takes_too_long(served, monkeypatch):
    monkeypatch.setattr(serve, "STUCK", 0.1)
    judge = Held()
    port = served(judge)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(ask, port, body=png())
        wait_until(lambda: ask(port, "/health", method="GET")[:2] == (503, {"status": "stuck"}))
        judge.go.set()
        assert job.result()[0] == 200
    # A batch ends shortly after its answers.
    wait_until(lambda: ask(port, "/health", method="GET")[0] == 200)


def test_metrics_count_answers_decisions_and_seconds(served):
    port = served(Brightness())
    for body in (png(200), png(200), png(3), b"no picture"):
        ask(port, body=body)
    status, text, headers = ask(port, "/metrics", method="GET")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['anomaly_answers_total{status="200"}'] == "3" and values['anomaly_answers_total{status="400"}'] == "1"
    assert values['anomaly_decisions_total{decision="reject"}'] == "2"
    assert values['anomaly_decisions_total{decision="accept"}'] == values["anomaly_requests"].replace("0", "1") == "1"
    assert values["anomaly_batches_total"] == values["anomaly_seconds_count"] == "3"
    assert 0 < float(values['anomaly_seconds{quantile="0.5"}']) <= float(values["anomaly_seconds_sum"])


def test_a_run_is_served(served, config):
    trainer = build_trainer(config("st", {"epochs": 1}, calibration=0.4, false_reject_rate=0.25))
    trainer.train()
    args = serve.flags().parse_intermixed_args([str(trainer.run_dir), "false_reject_rate=0.3"])
    judge, path = serve.judge_of(args), trainer.test_set[0].samples[-1].path
    assert judge.calibration.rate == 0.3
    expected = judge(path)
    status, row, _ = ask(served(judge), body=path.read_bytes())
    assert status == 200 and row["decision"] == expected.decision
    assert row["score"] == pytest.approx(expected.score, rel=1e-4)


def call_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["serve.py", *words])
    serve.main()


def serve_until_ctrl_c():
    """The script's main() with a judge that is quickly made, and a client that asks twice and then presses Ctrl-C."""
    found = []

    def address(place, address=serve.address):
        found.append(place.getsockname()[1])
        return address(place)

    def client():
        wait_until(lambda: found)
        for headers in ({"Authorization": "Bearer secret"}, {}):
            print(ask(found[0], body=png(), **headers)[0], file=sys.stderr)
        os.kill(os.getpid(), signal.SIGINT)

    serve.judge_of, serve.address = lambda args: Brightness(), address
    sys.argv = ["serve.py", "RUN", "--port", "0"]
    threading.Thread(target=client).start()
    serve.main()


@pytest.mark.slow
def test_the_command_says_where_it_listens_and_ends_with_ctrl_c():
    # In a process of its own: handlers of signals, streams and logging belong to the process.
    done = run_script("-c", f"import {__name__} as test; test.serve_until_ctrl_c()", **{serve.TOKEN: "secret"})
    assert done.returncode == 0 and done.stderr.split() == ["200", "401"]
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+, Ctrl-C ends it\n", done.stdout)


def test_it_starts_as_a_file_from_any_folder(tmp_path):
    done = run_script(REPO / "deploy/serve.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: serve.py"), done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give the folder of one run, such as results/st/screw, or --model DIR"),
        (["results/a", "results/b"], "give the folder of one run"),
        (["results/a", "--model", "exported"], "give the folder of one run"),
        (["results/nothing"], "results/nothing"),
        (["--model", "results/nothing"], "results/nothing"),
        (["RUN", "--port", "70000"], "--port"),
        (["RUN", "--host", "256.1.1.1"], "--host, --port: cannot listen on 256.1.1.1:8000"),
        (["RUN", "--queue", "0"], "--queue"),
        (["RUN", "--token", ""], "--token"),
        (["RUN", "--token", "secret "], "--token"),  # a header's value cannot end so
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, tmp_path, words, expected):
    monkeypatch.chdir(tmp_path)
    words = [*words, "--port", "0"] if "--port" not in words and "--host" not in words else words
    with pytest.raises(UserError) as error:
        call_main(monkeypatch, *words)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_the_page_shows_commands_that_are_understood_and_the_limits_that_hold():
    page = (REPO / "docs/server.md").read_text(encoding="utf-8")
    (words,) = (line.split()[2:] for line in page.splitlines() if line.startswith("python3 deploy/serve.py "))
    args = serve.flags().parse_intermixed_args(words)
    assert args.words == ["results/st/screw"] and f"http://{args.host}:{args.port}/predict" in page
    rows = dict(re.findall(r"`--([a-z-]+)`.* \| (\d+)", page))
    assert {key: int(value) for key, value in rows.items()} == {"max-pixels": 50, "max-bytes": 32, "queue": 64}
    assert Limits() == (64, 32 * 10**6, 50 * 10**6) == (args.queue, args.max_bytes, args.max_pixels)
    assert serve.TOKEN in page


def test_a_port_in_use_is_named(monkeypatch):
    with serve.listening("127.0.0.1", 0) as place:
        port = str(place.getsockname()[1])
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            call_main(monkeypatch, "RUN", "--port", port)


def test_without_its_packages_the_command_to_install_them_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match="pip install -r requirements-serve.txt"):
        call_main(monkeypatch, "RUN")
