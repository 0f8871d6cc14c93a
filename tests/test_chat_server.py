"""`ntlbg ask --server`: frames chosen here and answered there, by a real `transformers serve`; or one sentence."""

import base64
import http.server
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from PIL import Image
from test_cli import QUESTION, assert_one_sentence, clip, encoder, models, run  # noqa: F401

from ntlbg.selection.answering import load_answerer
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.chat_server import ChatServer, ServerError


SERVING = ("fastapi", "uvicorn", "openai")
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": " A red one. "}, "finish_reason": "stop"}]}


# -- a real server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):  # noqa: F811
    """Address of a `transformers serve` of the tiny model that takes images, and the model's name there."""
    missing = [name for name in SERVING if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}: pip install -e '.[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    serve = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", serve, "serve", models["llava"], "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log, env=environment
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1", models["llava"]
    finally:
        server.terminate()
        server.wait()
        log.close()


def _wait_for(address: str, server: subprocess.Popen, log) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    log.seek(0)
    pytest.fail(f"transformers serve did not start: {log.read()[-2000:]}")


def _as_a_chat_template_takes_it(messages: list[dict]) -> list[dict]:
    """What a server makes of OpenAI's messages: text parts as they are, data URLs as pictures."""
    parts = []
    for part in messages[0]["content"]:
        if part["type"] == "image_url":
            jpeg = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
            part = {"type": "image", "image": Image.open(io.BytesIO(jpeg))}
        parts.append(part)
    return [{"role": "user", "content": parts}]


def test_a_server_answers_as_its_model_does_here_from_the_same_frames(capsys, clip, models, encoder, served):  # noqa: F811
    url, name = served
    options = ("--server", url, "--server-model", name, "--encoder", encoder, "--max-new-tokens", 8)
    code, out, err = run(capsys, "ask", clip, QUESTION, "who?", *options, "-k", 3, "--json", "-")
    assert code == 0, err
    described = json.loads(out)
    assert (described["model"], described["server"]) == (name, url)
    here = load_answerer(models["llava"], encoder=encoder, device="cpu", max_new_tokens=8)
    for answer in described["answers"]:
        selection = here.frames.select(clip, answer["question"], 3)
        assert answer["selection"]["indices"] == selection.indices.tolist()
        expected = here._generate(_as_a_chat_template_takes_it(selection.openai_messages(answer["question"])))
        assert answer["answer"] == expected != ""
    texts = [answer["answer"] for answer in described["answers"]]
    assert texts[0] != texts[1]


def test_frames_chosen_before_are_sent_as_they_are_and_shown_as_evidence(capsys, clip, encoder, served, tmp_path):  # noqa: F811
    url, name = served
    chosen, report = tmp_path / "chosen.json", tmp_path / "r.html"
    assert run(capsys, "select", clip, QUESTION, "-k", 4, "--encoder", encoder, "--json", chosen)[0] == 0
    options = ("--server", url, "--server-model", name, "--selection", chosen, "--max-new-tokens", 2)
    code, out, err = run(capsys, "ask", clip, QUESTION, "who?", *options, "--report", report)
    assert code == 0, err
    assert out.count("from 4 groups = 4 frames, of 16 candidate frames") == 2
    assert err.count(f"chosen for another question, '{QUESTION}'") == 1
    assert report.read_text().count("<img") == 8
    other = run(capsys, "ask", clip, QUESTION, *options, "-k", 2)
    assert_one_sentence(*other)
    assert "-k chooses frames" in other[2]


def test_a_model_that_the_server_does_not_have_is_told_with_its_own_words(capsys, clip, served):  # noqa: F811
    url, name = served
    options = ("--encoder", "none", "-k", 1)
    code, out, err = run(capsys, "ask", clip, QUESTION, "--server", url, "--server-model", "no/such", *options)
    assert_one_sentence(code, out, err)
    assert f"Server is pinned to '{name}'; requested 'no/such'" in err
    code, out, err = run(capsys, "ask", clip, QUESTION, "--server", url[:-3], "--server-model", name, *options)
    assert_one_sentence(code, out, err)
    assert "HTTP 404 Not Found" in err
    assert "/v1" in err


# -- servers that misbehave ----------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """Behaves by the first part of the path; remembers what it was sent."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers), None))
        self._send(401 if self.path.startswith("/locked") else 200, b'{"error": {"message": "wrong key"}}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        getattr(self, "_" + self.path.split("/")[1])()

    def _send(self, status: int, body: bytes, **headers):
        self.send_response(status)
        for header, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _good(self):
        self._send(200, json.dumps(COMPLETION).encode())

    def _silent(self):
        self.server.ended.wait(30)

    def _drips(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.ended.wait(0.05):
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    def _page(self):
        self._send(200, b"<!DOCTYPE html><title>Welcome to \x1b[31mnginx</title>")

    def _deep(self):
        self._send(200, b"[" * 200_000)

    def _list(self):
        self._send(200, b"[1, 2]")

    def _error(self):
        self._send(200, b'{"error": {"message": "no pictures, please", "code": 7}}')

    def _reasons(self):
        choice = {"message": {"content": None, "reasoning_content": "Hm."}, "finish_reason": "length"}
        self._send(200, json.dumps({"choices": [choice]}).encode())

    def _empty(self):
        choice = {"message": {"content": " \n"}, "finish_reason": "length"}
        self._send(200, json.dumps({"choices": [choice]}).encode())

    def _crashes(self):
        self._send(500, b"Internal Server Error")

    def _unknown(self):
        self._send(404, b'{"object": "error", "message": "The model `m` does not exist.", "code": 404}')

    def _invalid(self):
        self._send(422, b'{"detail": [{"loc": ["body"], "msg": "At most 4 images are allowed."}]}')

    def _moved(self):
        self._send(307, b"", Location="http://127.0.0.1:1/steal")

    def _cut(self):
        self._send(200, b'{"choices": [', Content_Length="5000")

    def _endless(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(400):
            try:
                self.wfile.write(b" " * 2**16)
            except OSError:
                return

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def rogue():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads, server.seen, server.ended = True, [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


def ask(capsys, clip, server, path, *options):  # noqa: F811
    url = f"http://127.0.0.1:{server.server_port}/{path}/v1"
    arguments = ("--server", url, "--server-model", "m", "--encoder", "none", "-k", 2)
    return run(capsys, "ask", clip, QUESTION, *arguments, *options)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("silent", ("did not answer within 1 s", "--server-timeout")),
        ("drips", ("did not answer within 1 s", "--server-timeout")),
        ("page", ("no JSON", "<!DOCTYPE html>", "/v1")),
        ("deep", ("no JSON",)),
        ("list", ("no chat completion", "/v1")),
        ("error", ("no chat completion (no pictures, please)",)),
        ("reasons", ("ended without an answer", "'length'", "--max-new-tokens")),
        ("empty", ("ended without an answer", "'length'", "--max-new-tokens")),
        ("crashes", ("HTTP 500 Internal Server Error)", "--server-model")),
        ("unknown", ("HTTP 404 Not Found: The model `m` does not exist)", "--server-model")),
        ("invalid", ("HTTP 422", "At most 4 images are allowed", "-k")),
        ("locked", ("HTTP 401 Unauthorized: wrong key", "--server-key-env")),
        ("moved", ("HTTP 307", "redirects are not followed")),
        ("cut", ("ended 4987 bytes too early",)),
        ("endless", ("more than 16777216 bytes",)),
    ],
)
def test_a_server_that_gives_no_answer_ends_with_one_sentence_that_says_why(capsys, clip, rogue, path, parts):  # noqa: F811
    code, out, err = ask(capsys, clip, rogue, path, "--server-timeout", 1 if path in ("silent", "drips") else 20)
    assert_one_sentence(code, out, err)
    for part in parts:
        assert part in err


def test_a_server_that_is_not_there_is_told_before_the_video_is_looked_at(capsys, clip, tmp_path):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    code, out, err = run(
        capsys, "ask", clip, QUESTION, "--server", address, "--server-model", "m", "--cache", tmp_path / "kept"
    )
    assert_one_sentence(code, out, err)
    assert f"{address} cannot be reached (Connection refused); start it" in err
    assert not (tmp_path / "kept").exists()


def test_each_frame_is_sent_after_its_time_with_the_key_of_the_environment_only(capsys, clip, rogue, monkeypatch):  # noqa: F811
    monkeypatch.setenv("OUR_KEY", "sk-123")
    code, out, err = ask(capsys, clip, rogue, "good", "--server-key-env", "OUR_KEY", "--max-new-tokens", 5)
    assert code == 0, err
    assert "\nA red one.\n" in out
    assert "question was not used" in err
    path, headers, body = rogue.seen[-1]
    assert path == "/good/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-123"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 5, 0)
    selection = FrameSelector(None).select(clip, k=2)
    assert body["messages"] == selection.openai_messages(QUESTION)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["text", "image_url"] * 2 + ["text"]
    assert ask(capsys, clip, rogue, "good")[0] == 0
    assert "Authorization" not in rogue.seen[-1][1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--server", "http://127.0.0.1:8000/v1"], "--server-model NAME"),
        (["--server-model", "m", "--model", "x"], "goes with --server"),
        (["--selection", "s.json", "--model", "x"], "goes with --server"),
        (["--server", "127.0.0.1:8000", "--server-model", "m"], "http://127.0.0.1:8000/v1"),
        (["--server", "ftp://host/v1", "--server-model", "m"], "http://127.0.0.1:8000/v1"),
        (["--server", "http://host:99999/v1", "--server-model", "m"], "http://127.0.0.1:8000/v1"),
        (["--server", "http://ho st/v1", "--server-model", "m"], "http://127.0.0.1:8000/v1"),
        (["--server", "http://u:secret@host/v1", "--server-model", "m"], "--server-key-env"),
        (["--server", "http://u:secret@host:99999/v1", "--server-model", "m"], "--server-key-env"),
        (["--server", "http://u:secret@[host/v1", "--server-model", "m"], "--server-key-env"),
        (["--server", "http://u:secret@ho st/v1", "--server-model", "m"], "--server-key-env"),
        (["--server", "http://u:1/secret@host/v1", "--server-model", "m"], "--server-key-env"),
        (["--server", "ftp://host/v1?key=secret", "--server-model", "m"], "--server-key-env"),
        (["--server", "http://host/v1", "--server-model", " "], "no name"),
        (["--server", "http://host/v1", "--server-model", "m", "--server-key-env", "NO_SUCH"], "NO_SUCH"),
        (["--server", "http://host/v1", "--server-model", "m", "--max-visual-tokens", "9"], "-k"),
        (["--server", "http://host/v1", "--server-model", "m", "--trust-remote-code"], "--trust-remote-code"),
        (["--server", "http://host/v1", "--server-model", "m", "--model", "x"], "not allowed with"),
        (["--server", "http://host/v1", "--server-model", "m", "--server-timeout", "0"], "above 0"),
        (["--server", "http://host/v1", "--server-model", "m", "--selection", "/no/such.json"], "/no/such.json"),
    ],
)
def test_bad_usage_is_one_sentence_before_any_work(capsys, arguments, part):
    code, out, err = run(capsys, "ask", "no-such-file.mp4", QUESTION, *arguments)
    assert_one_sentence(code, out, err)
    assert part in err
    assert "secret" not in err


def test_a_key_is_never_shown():
    assert "sk-123" not in repr(ChatServer("http://host/v1", "m", "sk-123"))
    with pytest.raises(ServerError) as refused:
        ChatServer("http://host/v1", "m", "sk-123\r\nX-Other: 1")
    assert "sk-123" not in str(refused.value)
