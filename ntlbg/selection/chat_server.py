"""A vision-language model behind a server that speaks OpenAI's protocol (vLLM, SGLang, `transformers serve`, ...).

One request an answer, not streamed, under one deadline; plain http.client, so that no package of any server is needed.
The address comes from the user, so private hosts are fine. Redirects are not followed: they could carry the key to
another host. Proxies of the environment are not used.
"""

from __future__ import annotations

import http
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ntlbg.errors import InputError
from ntlbg.plain_text import printable


# An answer is text; more than this is something else.
MAX_BYTES = 16 * 2**20
# Seconds to find out whether a server is there at all.
KNOCK_SECONDS = 10.0
_PIECE = 1 << 16


class ServerError(InputError):
    """A server cannot be asked or gives no answer; one sentence: what is wrong, what came, how to fix it."""


@dataclass(frozen=True)
class ChatServer:
    """One model of one server.

    Args:
        url: the address before `/chat/completions`, mostly one that ends in /v1.
        model: the name the server knows it by.
        key: sent as a bearer token; None sends none.
        timeout: seconds that an answer may take, from the first byte sent to the last one read.

    Raises:
        ServerError: the address, the name or the key cannot be used.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 600.0

    def __post_init__(self):
        if any(character in self.url for character in "@?#"):
            # Before anything else is said of it, and never shown: what stands there is often a secret.
            raise ServerError(
                "the server's address holds a user, a query or a fragment (an @, ? or #); give it without, and a key "
                "by --server-key-env"
            )
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not self.url.isprintable() or not self.url.isascii() or " " in self.url:
            raise ServerError(
                f"the server's address {self.url!r} is none; give one such as http://127.0.0.1:8000/v1 with --server"
            )
        if not self.model.strip():
            raise ServerError("the server's model has no name; give the one the server knows with --server-model")
        if self.key is not None and not (self.key and self.key.isascii() and self.key.isprintable()):
            raise ServerError("the server's key is empty or holds characters that no key has; set it again")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def check(self) -> None:
        """Find out whether something answers there, before a video is looked at for it.

        Raises:
            ServerError: nothing does, or the key is refused. (An unknown model is told by `answer` alone: servers that
                load models when they are asked for list only some of them.)
        """
        status, body = self._exchange("GET", "/models", None, min(KNOCK_SECONDS, self.timeout))
        if status in (401, 403):
            raise self._refusal(status, body)

    def answer(self, messages: list[dict], max_new_tokens: int) -> str:
        """The model's answer to chat messages, decoded greedily.

        Args:
            messages: ready for JSON, see `FrameSelection.openai_messages`.
            max_new_tokens: longest answer.

        Raises:
            ServerError: no connection, no answer in time, an HTTP error, or something that is no chat completion.
        """
        request = {"model": self.model, "messages": messages, "max_tokens": max_new_tokens, "temperature": 0.0}
        status, body = self._exchange("POST", "/chat/completions", json.dumps(request).encode(), self.timeout)
        if status != 200:
            raise self._refusal(status, body)
        try:
            described = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ServerError(
                f"the server {self.url} answered with no JSON ({_beginning(body)!r}); is it the address of a chat "
                "server, such as http://127.0.0.1:8000/v1?"
            ) from error
        try:
            choice = described["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ServerError(
                f"the server {self.url} answered with no chat completion ({_told(body)}); is it the address of a chat "
                "server, such as http://127.0.0.1:8000/v1?"
            ) from error
        if not isinstance(text, str) or (reason == "length" and not text.strip()):
            raise ServerError(
                f"the model {self.model!r} on {self.url} ended without an answer (finish_reason {reason!r}); raise "
                "--max-new-tokens: a model that reasons first may need a thousand"
            )
        return text.strip()

    def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, bytes]:
        """Status and body of one request."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "ntlbg"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        deadline = time.monotonic() + seconds
        parts = urlsplit(self.url)
        try:
            with _connection(parts, deadline) as connection:
                connection.request(method, parts.path + path, body, headers)
                response = connection.getresponse()
                answer = response.status, self._read(response)
            if time.monotonic() >= deadline:
                raise TimeoutError("cut at the deadline")
            return answer
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if time.monotonic() >= deadline:
                remedy = "is it up, and is the address right?"
                if method == "POST":
                    remedy = "raise --server-timeout, or send fewer frames with -k"
                raise ServerError(f"the server {self.url} did not answer within {seconds:g} s; {remedy}") from error
            raise ServerError(
                f"the server {self.url} cannot be reached ({_reason(error)}); start it, or correct --server"
            ) from error

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        body = bytearray()
        while piece := response.read1(_PIECE):
            body += piece
            if len(body) > MAX_BYTES:
                raise ServerError(
                    f"the server {self.url} answered with more than {MAX_BYTES} bytes: that is no answer"
                )
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return bytes(body)

    def _refusal(self, status: int, body: bytes) -> ServerError:
        try:
            phrase = http.HTTPStatus(status).phrase
        except ValueError:
            phrase = "unknown status"
        told = _told(body)
        said = f"HTTP {status} {phrase}" + (f": {told}" if told and told != phrase else "")
        if status in (401, 403):
            remedy = "name the environment variable that holds the right key with --server-key-env"
        elif 300 <= status < 400:
            remedy = "redirects are not followed, so give the address it leads to"
        elif status == 404:
            remedy = "the address mostly ends in /v1, and --server-model must be a name that the server knows"
        elif status == 413:
            remedy = "send fewer frames with -k"
        else:
            remedy = "see its log; often --server-model is unknown to it, or takes fewer pictures (-k)"
        return ServerError(f"the server {self.url} refused {self.model!r} ({said}); {remedy}")


@contextmanager
def _connection(parts: SplitResult, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """A connection that ends at the deadline, wherever it hangs: a server may send a byte of a header every minute."""
    secure = parts.scheme == "https"
    host, port = parts.hostname, parts.port or (443 if secure else 80)
    plain = socket.create_connection((host, port), max(deadline - time.monotonic(), 0.01))
    # A duplicate can be shut down without touching the TLS object that another thread reads.
    handle = plain.dup()

    def cut() -> None:
        try:
            handle.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it ended by itself in the same moment

    timer = threading.Timer(max(deadline - time.monotonic(), 0.0), cut)
    timer.daemon = True
    timer.start()
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port)
    try:
        connection.sock = plain
        if secure:
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        yield connection
    finally:
        timer.cancel()
        timer.join()
        handle.close()
        connection.close()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended {error.expected} bytes too early"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(text.split())[:100]).rstrip(".")


def _told(body: bytes) -> str:
    """What an error's body says, in the forms in use: `error.message`, `error`, `message`, `detail`, or plain text."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _beginning(body)
    for name in ("error", "message", "detail", "message", "msg"):
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return _beginning((found if isinstance(found, str) else json.dumps(found)).encode())


def _beginning(body: bytes, most: int = 240) -> str:
    text = printable(" ".join(body[: 8 * most].decode("utf-8", "replace").split()))
    return (text if len(text) <= most else text[: most - 1] + "…").rstrip(".")
