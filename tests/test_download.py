"""Addresses: off unless allowed, public hosts only unless allowed, capped in size and time, nothing left behind."""

import http.server
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from odd_videos import numbered_frames, write_video
from tiny_parts import tiny_base_processor

from ntlbg.cli import main
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_decoding_ntlbg import (
    VideoClip,
    VideoError,
    VideoLimits,
    decode_candidates,
    decode_frames,
    open_video,
)
from ntlbg.processors.video_download_ntlbg import _is_public, download_video
from ntlbg.selection.api import FrameSelector, select_frames


LOOPBACK = VideoLimits(allow_http=True, allow_private_hosts=True)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("download") / "plain.mp4", numbered_frames(100), options={"g": "25"})


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers by path; remembers what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        getattr(self, "answer_" + self.path.split("/")[1].split("?")[0], self.answer_video)()

    def head(self, status=200, **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def answer_video(self):
        self.head(Content_Length=len(self.server.content))
        self.wfile.write(self.server.content)

    def answer_chunked(self):
        self.head(Transfer_Encoding="chunked")
        content = self.server.content
        for piece in (content[:1000], content[1000:]):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def answer_until_closed(self):
        self.head(Connection="close")
        self.wfile.write(self.server.content)
        self.close_connection = True

    def answer_endless(self):
        self.head(Connection="close")
        while not self.server.stop.is_set():
            self.wfile.write(bytes(1 << 16))

    def answer_drip(self):
        self.head(Content_Length=10_000)
        self.drip()

    def answer_drip_head(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.drip()

    def answer_continue(self):
        while not self.server.stop.is_set():
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def drip(self):
        while not self.server.stop.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def answer_cut(self):
        self.head(Content_Length=len(self.server.content))
        self.wfile.write(self.server.content[:1000])
        self.close_connection = True

    def answer_missing(self):
        self.head(404, Content_Length=0)

    def answer_no_http(self):
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.close_connection = True

    def answer_text(self):
        self.head(Content_Length=6)
        self.wfile.write(b"hello\n")

    def answer_to(self):
        self.head(302, Location=self.path[len("/to/") :], Content_Length=0)

    def answer_loop(self):
        self.head(302, Location="/loop", Content_Length=0)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(video):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        server.handle_error = lambda *_: None
        server.asked, server.headers, server.stop = [], [], threading.Event()
        server.content = video.read_bytes()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files that must be empty in the end, whatever happened."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text, text
    assert text.endswith("."), text
    assert ". " not in text, text
    return text


# -- what is fetched is the video ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["video", "chunked", "until_closed"])
def test_an_address_is_a_video_like_the_file_itself(server, video, way, temporary):
    expected = decode_candidates(video, candidate_fps=5)
    got = decode_candidates(f"{server.url}/{way}/holiday.mp4?token=secret", candidate_fps=5, limits=LOOPBACK)
    assert (got.frames == expected.frames).all()
    assert got.name == "holiday.mp4"
    assert server.asked == [f"/{way}/holiday.mp4?token=secret"]
    assert server.headers[0]["Host"] == server.url.removeprefix("http://")
    assert server.headers[0]["Accept-Encoding"] == "identity"
    assert list(temporary.iterdir()) == []


def test_a_clip_of_an_address(server, video):
    got = decode_candidates(VideoClip(f"{server.url}/a.mp4", 1, 2), candidate_fps=100, limits=LOOPBACK)
    assert got.indices.tolist() == list(range(25, 51))


def test_looking_twice_downloads_once(server, video, temporary):
    selector = FrameSelector(None, candidate_fps=5, limits=LOOPBACK)
    for source in (f"{server.url}/a.mp4", VideoClip(f"{server.url}/a.mp4", 1, 2)):
        server.asked.clear()
        features = selector.encode(source)
        first, second = selector.select(features, k=3), selector.select(features, k=2)
        assert (first.frames == decode_frames(video, first.indices).frames).all()
        assert second.k == 2
        assert server.asked == ["/a.mp4"]
        assert len(list(temporary.iterdir())) == 1
        del features
        assert list(temporary.iterdir()) == []


def test_a_download_is_a_path_and_goes_away_with_its_object(server, video, temporary):
    with download_video(f"{server.url}/a.mp4", LOOPBACK) as downloaded:
        assert Path(downloaded).read_bytes() == video.read_bytes()
        with open_video(downloaded) as opened:
            assert len(opened.times) == 100
    assert not os.path.exists(downloaded)
    downloaded = download_video(f"{server.url}/a.mp4", LOOPBACK)
    assert os.path.exists(downloaded)
    child = os.fork()
    if not child:
        # a forked worker must not take the file away from its parent
        del downloaded
        os._exit(0)
    os.waitpid(child, 0)
    assert os.path.exists(downloaded)
    del downloaded
    assert list(temporary.iterdir()) == []


def test_the_processor_takes_an_address(server, video):
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl")).video_processor
    with pytest.raises(VideoError, match="addresses are not opened unless"):
        processor.fetch(f"{server.url}/a.mp4")
    assert server.asked == []
    processor.limits = LOOPBACK
    assert len(processor.fetch(f"{server.url}/a.mp4")[0]) == 8


def test_the_command_takes_an_address_only_when_told(server, capsys):
    address = f"{server.url}/a.mp4?token=secret"
    private = ["--allow-http", "--allow-private-hosts"]
    for options, code in (
        ([], 2),
        (["--allow-http"], 2),
        (private, 0),
        ([*private, "--limit", "max_download_bytes=9"], 2),
    ):
        assert main(["select", address, "-k", "2", *options]) == code
        captured = capsys.readouterr()
        assert "secret" not in captured.out + captured.err
        assert bool(captured.out) == (code == 0)
        assert captured.err.count("\n") == (code == 2)
    assert server.asked == ["/a.mp4?token=secret"] * 2
    assert "raise --limit max_download_bytes=" in captured.err


# -- what is refused -----------------------------------------------------------------------------------------------


def test_addresses_are_off_by_default(server):
    for look in (decode_candidates, select_frames, open_video, download_video):
        with pytest.raises(VideoError, match=r"not opened unless VideoLimits.allow_http is set") as error:
            look(f"{server.url}/a.mp4?token=secret")
        assert "secret" not in one_sentence(error)
    assert server.asked == []


def test_hosts_that_are_not_public_are_refused_by_default(server):
    port = server.server_port
    # names, decimal, octal and hexadecimal numbers, IPv4 inside IPv6: all lead here
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "017700000001", "127.1", "[::ffff:127.0.0.1]"):
        with pytest.raises(VideoError, match=r"not on the public internet|cannot be downloaded") as error:
            decode_candidates(f"http://{host}:{port}/a.mp4", limits=VideoLimits(allow_http=True))
        one_sentence(error)
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert _is_public(address) is public


def test_a_name_is_resolved_once(server, monkeypatch, video):
    # a name server that answers a public address first and a private one to the second question
    answers = []

    def resolve(host, port, *_, **__):
        answers.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34" if len(answers) == 1 else "127.0.0.1", port))
        ]

    connected = []

    def connect(address, *_, **__):
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(VideoError, match="Connection refused"):
        download_video("http://rebind.example/a.mp4", VideoLimits(allow_http=True))
    assert answers == ["rebind.example"]
    assert connected == [("93.184.216.34", 80)]


def test_a_redirect_is_checked_like_the_first_address(server, monkeypatch, tmp_path):
    (tmp_path / "planted.mp4").write_bytes(server.content)
    assert len(decode_candidates(f"{server.url}/to//video/a.mp4", limits=LOOPBACK)) == 8
    for target, what in (
        (f"file://{tmp_path}/planted.mp4", "must be http or https, but got 'file' after a redirect"),
        ("ftp://127.0.0.1/a.mp4", "must be http or https, but got 'ftp'"),
        ("data:video/mp4;base64,AAAA", "must be http or https, but got 'data'"),
        (f"http://user:secret@127.0.0.1:{server.server_port}/a.mp4", "carries a user name"),
        ("http://127.0.0.1:99999/a.mp4", "is not a valid address"),
    ):
        server.asked.clear()
        with pytest.raises(VideoError, match=what) as error:
            decode_candidates(f"{server.url}/to/{target}", limits=LOOPBACK)
        assert "secret" not in one_sentence(error)
        assert len(server.asked) == 1
    # allowed to go to this server's public face, but not from there to a private host
    monkeypatch.setattr("ntlbg.processors.video_download_ntlbg._is_public", lambda address: address != "127.0.0.2")
    server.asked.clear()
    with pytest.raises(VideoError, match=r"leads to 127.0.0.2, which is not on the public internet"):
        decode_candidates(
            f"{server.url}/to/http://127.0.0.2:{server.server_port}/", limits=VideoLimits(allow_http=True)
        )
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("path", "limits", "what"),
    [
        ("video", {"max_download_bytes": 1000}, "has more than 1000 bytes"),
        ("chunked", {"max_download_bytes": 1000}, "has more than 1000 bytes"),
        ("endless", {"max_download_bytes": 10**6}, "has more than 1000000 bytes"),
        ("endless", {"download_timeout": 0.3, "max_download_bytes": 10**12}, "took longer than 0.3 s"),
        ("drip", {"download_timeout": 0.3}, "took longer than 0.3 s"),
        ("drip_head", {"download_timeout": 0.3}, "took longer than 0.3 s"),
        ("continue", {"download_timeout": 0.3}, "took longer than 0.3 s"),
        ("cut", {}, "the connection ended after 1000 of"),
        ("missing", {}, r"answered 404 \(Not Found\)"),
        ("no_http", {}, "cannot be downloaded"),
        ("loop", {}, "redirects more than 5 times"),
        ("text", {}, "cannot be opened as a video"),
    ],
)
def test_what_is_no_good_download_ends_in_one_sentence_and_leaves_nothing(server, path, limits, what, temporary):
    limits = VideoLimits(allow_http=True, allow_private_hosts=True, **limits)
    with pytest.raises(VideoError, match=what) as error:
        decode_candidates(f"{server.url}/{path}", limits=limits)
    one_sentence(error)
    # while the error is still held
    assert list(temporary.iterdir()) == []
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://[::1",
        "http://a b/c",
        "http://\x00/a",
        "http://ex\nample.com/",
        "HTTP://nowhere.invalid/a.mp4",
    ],
)
def test_broken_addresses_end_in_one_sentence(address):
    with pytest.raises(VideoError) as error:
        decode_candidates(address, limits=LOOPBACK)
    one_sentence(error)


def test_a_file_that_is_named_like_an_address_is_that_file(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("http:/host")
    shutil.copy(video, "http:/host/a.mp4")
    assert len(decode_candidates("http://host/a.mp4")) == 8
    assert len(decode_candidates(Path("http://host/a.mp4"))) == 8
    # a path object is never an address
    with pytest.raises(VideoError, match="there is no such file"):
        decode_candidates(Path("http://host/b.mp4"), limits=LOOPBACK)


# -- https ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(server, tmp_path):
    """The same server behind TLS with a certificate for localhost that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    options = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run(["openssl", "req", *options, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.certificate = tmp_path / "cert.pem"
    server.secure_url = f"https://localhost:{server.server_port}"
    return server


def test_https_is_verified(secure, monkeypatch):
    with pytest.raises(VideoError, match="its certificate is not valid: self-signed certificate") as error:
        decode_candidates(f"{secure.secure_url}/a.mp4", limits=LOOPBACK)
    one_sentence(error)
    assert secure.asked == []
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate))
    assert len(decode_candidates(f"{secure.secure_url}/a.mp4", limits=LOOPBACK)) == 8
    with pytest.raises(VideoError, match="certificate is not valid"):
        decode_candidates(f"https://127.0.0.1:{secure.server_port}/a.mp4", limits=LOOPBACK)
    with pytest.raises(VideoError, match=r"redirects from https to 'http://localhost/a.mp4'"):
        decode_candidates(f"{secure.secure_url}/to/http://localhost/a.mp4", limits=LOOPBACK)
