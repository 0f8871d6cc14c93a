"""From an http(s) address to a temporary file: only where it is allowed, under a size cap and one deadline.

What an address may not do here: reach a host that is not on the public internet (unless allowed), redirect to another
scheme or from https to http, carry a user name, send more than the cap, or take its time. A name is resolved once and
the connection goes to the address that was checked: a second answer of its name server changes nothing. Proxies of the
environment are not used, since they would resolve the name again.
"""

import http
import http.client
import ipaddress
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote, unquote, urljoin, urlsplit

from .video_source_ntlbg import VideoError, VideoLimits, unclipped


MAX_REDIRECTS = 5

_PIECE = 1 << 18

# IPv6 networks whose last 32 bits are an IPv4 address (RFC 4291, 2.5.5; RFC 6052), which a gateway may pass it on to.
_HOLDS_IPV4 = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))


class DownloadedVideo(os.PathLike):
    """
    A video in a temporary file that goes away with this object, at the latest when Python ends.

    It is a path, so everything that takes a path takes it: download once, look twice.
    """

    def __init__(self, path: str):
        self._path = path
        self._remove = weakref.finalize(self, _remove_folder, os.path.dirname(path), os.getpid())

    def __fspath__(self) -> str:
        return self._path

    def close(self) -> None:
        """Removes the file now."""
        self._remove()

    def __enter__(self) -> "DownloadedVideo":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _remove_folder(folder: str, owner: int) -> None:
    # a forked worker holds a copy of the object, but the file belongs to the process that made it
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def is_address(source) -> bool:
    """Whether `source` is an http(s) address: a string that says so and names no file."""
    return (
        isinstance(source, str)
        and source[:8].lower().startswith(("http://", "https://"))
        and not os.path.isfile(source)
    )


def shown_address(url: str) -> str:
    """`url` as messages may show it: without user, query and fragment, which often hold secrets."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "the address"
    text = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
    return repr(text if len(text) <= 120 else text[:117] + "...")


def download_video(url: str, limits: VideoLimits | None = None) -> DownloadedVideo:
    """
    Fetches `url` into a temporary file.

    Args:
        url (`str`): an http or https address.
        limits (`VideoLimits`, *optional*): `allow_http` must be set; `allow_private_hosts`, `max_download_bytes`,
            `download_timeout` (seconds for everything, redirects included; the system's name resolution comes on top)
            and `timeout` (for each read) apply.

    Raises:
        VideoError: not allowed, refused, too large, too slow, or an answer that is no file; nothing is left behind.
    """
    limits = limits or VideoLimits()
    if not limits.allow_http:
        raise VideoError(
            f"{shown_address(url)} cannot be read as a video: addresses are not opened unless VideoLimits.allow_http "
            "is set; set it, or download the file and pass its path."
        )
    deadline = time.monotonic() + limits.download_timeout
    folder = tempfile.mkdtemp(prefix="ntlbg-")
    video = DownloadedVideo(os.path.join(folder, _file_name(url)))
    try:
        _fetch(url, video, limits, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # whatever ended it, an exception's traceback may keep `video` alive
        video.close()
        if isinstance(error, VideoError):
            raise
        if time.monotonic() >= deadline:
            raise VideoError(
                f"{shown_address(url)} took longer than {limits.download_timeout:g} s to download; raise "
                "VideoLimits.download_timeout or download it yourself."
            ) from error
        raise VideoError(
            f"{shown_address(url)} cannot be downloaded ({_reason(error)}); check the address or download it yourself."
        ) from error
    except BaseException:
        video.close()
        raise
    return video


def downloaded(source, limits: VideoLimits | None = None):
    """`source`, or what was downloaded where it is an address or a clip of one: to be looked at more than once."""
    video, clip = unclipped(source)
    if not is_address(video):
        return source
    video = download_video(video, limits)
    return video if clip is None else replace(clip, source=video)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:100].rstrip(".")


def _file_name(url: str) -> str:
    """A harmless file name that still tells which video it is."""
    try:
        name = unquote(urlsplit(url).path).rpartition("/")[2]
    except ValueError:
        name = ""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].lstrip(".-") or "download"


def _fetch(url: str, video: DownloadedVideo, limits: VideoLimits, deadline: float) -> None:
    """Follows redirects and writes the body of the answer to `video`."""
    for _ in range(MAX_REDIRECTS + 1):
        connection, target = _connection(url, limits, deadline)
        with _cut_at(deadline, connection):
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "ntlbg"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
                further = urljoin(url, response.getheader("Location"))
                if url[:6].lower() == "https:" and further[:6].lower() != "https:":
                    raise VideoError(
                        f"{shown_address(url)} redirects from https to {shown_address(further)}, which is not "
                        "followed; pass that address itself if it is meant."
                    )
                url = further
                continue
            if response.status != 200:
                try:
                    phrase = http.HTTPStatus(response.status).phrase
                except ValueError:
                    phrase = "unknown status"
                raise VideoError(
                    f"{shown_address(url)} answered {response.status} ({phrase}) and no video; check the address."
                )
            _write(response, url, video, limits, deadline)
            return
    raise VideoError(f"{shown_address(url)} redirects more than {MAX_REDIRECTS} times; pass the final address.")


def _write(response, url: str, video: DownloadedVideo, limits: VideoLimits, deadline: float) -> None:
    cap, promised, written = limits.max_download_bytes, response.length, 0

    def check(size: int) -> None:
        if size > cap:
            raise VideoError(
                f"{shown_address(url)} has more than {cap} bytes; raise VideoLimits.max_download_bytes or download it "
                "yourself."
            )

    check(promised or 0)
    with open(video, "xb") as file:
        # `read1` waits once and returns what came, so that the deadline is looked at between any two waits
        while piece := response.read1(_PIECE):
            written += len(piece)
            check(written)
            file.write(piece)
    if time.monotonic() >= deadline:
        raise TimeoutError("cut at the deadline")
    if promised is not None and written < promised:
        raise ConnectionError(f"the connection ended after {written} of {promised} bytes")


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to addresses that were checked, whatever the host's name resolves to by then."""

    def __init__(self, host: str, port: int, addresses: list[str], context: ssl.SSLContext | None, limits, deadline):
        super().__init__(host, port)
        # whether the port is said in the Host header
        self.default_port = 80 if context is None else 443
        self.addresses, self.context, self.limits, self.deadline = addresses, context, limits, deadline

    def connect(self) -> None:
        """Connects to the first of the addresses that answers."""
        error: OSError | None = None
        for address in self.addresses:
            left = self.deadline - time.monotonic()
            if left <= 0:
                break
            try:
                self.sock = socket.create_connection((address, self.port), min(left, self.limits.timeout))
                break
            except OSError as failed:
                error = failed
        else:
            raise error
        if self.sock is None:
            raise TimeoutError("timed out")
        self.sock.settimeout(self.limits.timeout)


def _connection(url: str, limits: VideoLimits, deadline: float) -> tuple[_PinnedConnection, str]:
    """A connected socket for `url` (without TLS yet) and what to ask it for, after all checks of the address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise VideoError(f"{shown_address(url)} is not a valid address ({error}); check it.") from error
    if parts.scheme not in ("http", "https"):
        raise VideoError(
            f"An address must be http or https, but got {parts.scheme[:20]!r} after a redirect; pass a file instead."
        )
    if not host or parts.username is not None:
        what = "names no host" if not host else "carries a user name"
        raise VideoError(f"{shown_address(url)} {what}; download it yourself and pass the path.")
    port = port or (443 if parts.scheme == "https" else 80)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    host = host if ":" in host else host.encode("idna").decode("ascii")
    connection = _PinnedConnection(host, port, _addresses(host, port, url, limits), context, limits, deadline)
    connection.connect()
    target = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*") + (f"?{parts.query}" if parts.query else "")
    return connection, quote(target, safe="/%:=&~+!$,;'@()*?[]|")


def _addresses(host: str, port: int, url: str, limits: VideoLimits) -> list[str]:
    """The numeric addresses of `host`, all of which must be public unless `limits` allow others."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    for address in addresses:
        if not limits.allow_private_hosts and not _is_public(address):
            raise VideoError(
                f"{shown_address(url)} leads to {address}, which is not on the public internet; set "
                "VideoLimits.allow_private_hosts if that is meant."
            )
    return addresses


def _is_public(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    if number.version == 6:
        if number.is_site_local:
            return False
        if any(number in network for network in _HOLDS_IPV4):
            number = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        else:
            number = number.sixtofour or number
    return number.is_global and not number.is_multicast


@contextmanager
def _cut_at(deadline: float, connection: _PinnedConnection):
    """Ends the connection at the deadline wherever it hangs (a server may send a byte of a header every minute)."""
    plain = connection.sock
    # shutting down a duplicate ends the connection without touching the state of the TLS object another thread reads
    handle = plain.dup()

    def cut():
        try:
            handle.shutdown(socket.SHUT_RDWR)
        except OSError:
            # it ended by itself in the same moment
            return

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        if connection.context is not None:
            connection.sock = connection.context.wrap_socket(plain, server_hostname=connection.host)
        yield
    finally:
        timer.cancel()
        timer.join()
        handle.close()
        connection.close()
