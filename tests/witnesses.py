"""What sees whether anything was opened that should not have been: a loopback server, and the kernel's notes of a
folder."""

import ctypes
import http.server
import os
import struct
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest


# inotify(7)
_IN_OPEN, _IN_NONBLOCK, _EVENT = 0x20, 0o4000, struct.Struct("iIII")


class _Witness(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def watched_server():
    """A server on the loopback; `reached` counts connections of any protocol, `asked` holds the paths of requests."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Witness) as server:
        server.asked, server.reached = [], 0
        process = server.process_request

        def count(*arguments):
            server.reached += 1
            process(*arguments)

        server.process_request = count
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class WatchedFolder:
    """Tells which files of a folder were opened by anyone, as Linux notes it."""

    def __init__(self, folder: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            pytest.skip("only Linux tells which files are opened")
        self._handle = libc.inotify_init1(_IN_NONBLOCK)
        if self._handle < 0 or libc.inotify_add_watch(self._handle, os.fsencode(folder), _IN_OPEN) < 0:
            pytest.skip("this machine does not tell which files are opened")

    def opened(self) -> set[str]:
        """Names of the files that were opened since the last call."""
        names = set()
        while True:
            try:
                events = os.read(self._handle, 1 << 16)
            except BlockingIOError:
                return names
            at = 0
            while at < len(events):
                *_, length = _EVENT.unpack_from(events, at)
                name = events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                # without a name it is the folder itself
                if name:
                    names.add(os.fsdecode(name))

    def close(self) -> None:
        os.close(self._handle)
