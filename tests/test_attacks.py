"""Hostile files and names: refused in one sentence, and nothing else is opened; witnesses look on."""

import io
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hostile_files import TABLES, bombs, box, claiming, external_reference, full_box, scripts, with_box
from odd_catalog import ODD
from odd_videos import numbered_frames, write_audio, write_video
from PIL import Image
from witnesses import WatchedFolder, watched_server

from ntlbg.processors.mov_tables_ntlbg import check_tables
from ntlbg.processors.video_decoding_ntlbg import (
    ImageFiles,
    VideoClip,
    VideoError,
    VideoFile,
    VideoLimits,
    decode_candidates,
)
from ntlbg.selection.api import select_frames


av.logging.set_level(None)

ENDINGS = ("mp4", "mkv", "ts", "m3u8", "mpd", "sdp", "idx", "ffconcat", "asf", "svg", "png")
FILMS = {"mp4": {}, "ts": {}, "mkv": {}, "avi": {"codec": "mpeg4"}, "mpg": {"codec": "mpeg2video"}}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", numbered_frames(50), options={"g": "10"})


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "fragmented.mp4"
    return write_video(path, numbered_frames(20), container_options={"movflags": "frag_keyframe+empty_moov"})


@pytest.fixture
def planted(tmp_path, film):
    """A folder with films and pictures that hostile files would like to open."""
    folder = tmp_path / "planted"
    folder.mkdir()
    shutil.copy(film, folder / "planted.mp4")
    write_video(folder / "planted.ts", numbered_frames(20))
    write_video(folder / "planted.mpg", numbered_frames(20), codec="mpeg2video")
    for number, frame in enumerate(numbered_frames(3)):
        Image.fromarray(frame).save(folder / f"seq{number}.png")
    return folder


@pytest.fixture
def server():
    with watched_server() as server:
        yield server


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text, text
    assert text.endswith("."), text
    assert ". " not in text, text
    return text


def assert_refused(source) -> None:
    for look in (decode_candidates, lambda s: select_frames(s, k=2)):
        with pytest.raises(VideoError) as error:
            look(source)
        one_sentence(error)


# -- what a file says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", scripts(Path("/"), 1))
def test_a_script_opens_nothing(planted, server, kind):
    content = scripts(planted, server.server_port)[kind]
    watch = WatchedFolder(planted)
    for ending in ENDINGS:
        script = planted / f"script.{ending}"
        script.write_text(content)
        # a subtitle index would find these by their names
        for beside in ("sub", "mp4"):
            if ending == "idx":
                shutil.copy(planted / "planted.mpg", planted / f"script.{beside}")
        watch.opened()
        with open(script, "rb") as file:
            assert file.name.endswith(ending)
            for source in (str(script), script, file, script.read_bytes(), VideoClip(script, 0, 1)):
                assert_refused(source)
        assert_refused(ImageFiles([script], fps=1))
        assert watch.opened() == {script.name}, ending
    watch.close()
    assert server.reached == 0


def test_without_the_guards_the_witnesses_do_see_it(planted, server):
    watch = WatchedFolder(planted)
    said = scripts(planted, server.server_port)
    for kind, ending, opened in (
        ("concat", "mp4", {"planted.mp4"}),
        ("playlist", "m3u8", {"planted.ts"}),
        ("playlist with a header", "m3u8", {"planted.ts", "planted.mp4"}),
    ):
        script = planted / f"script.{ending}"
        script.write_text(said[kind])
        watch.opened()
        with av.open(str(script)) as container:
            assert next(container.decode(video=0)) is not None
        assert watch.opened() == {script.name, *opened}
    script = planted / "script.m3u8"
    script.write_text(said["playlist by address"])
    with open(script, "rb") as file, pytest.raises((av.error.FFmpegError, IndexError)):
        # a file object's name is enough for FFmpeg to take it for a playlist
        next(av.open(file).decode(video=0))
    assert server.asked[0] == "/secret.ts"
    watch.close()


def test_pictures_in_another_file_are_not_fetched(planted, tmp_path):
    content = external_reference((planted / "planted.mp4").read_bytes(), planted / "planted.mp4")
    path = tmp_path / "refers.mp4"
    path.write_bytes(content)
    watch = WatchedFolder(planted)
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert len(list(container.decode(video=0))) == 50
    assert watch.opened() == {"planted.mp4"}, "the file was not written as intended"
    for source in (path, content):
        assert_refused(source)
    assert watch.opened() == set()
    watch.close()


# -- what a name says ----------------------------------------------------------------------------------------------


def test_a_name_is_no_protocol_and_no_pattern(planted, server, monkeypatch):
    monkeypatch.chdir(planted)
    port = server.server_port
    watch = WatchedFolder(planted)
    names = [
        "concat:planted.ts|planted.ts",
        "concatf:planted.ts",
        "subfile,,start,0,end,0,,:planted.mp4",
        "file:planted.mp4",
        f"file://{planted}/planted.mp4",
        "async:planted.mp4",
        "cache:planted.mp4",
        "crypto:planted.mp4",
        "crypto+file:planted.mp4",
        "tee:planted.mp4",
        "md5:planted.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "pipe:",
        "fd:0",
        "-",
        "unix:planted.mp4",
        "lavfi:movie=planted.mp4",
        "movie=planted.mp4",
        "seq%d.png",
        "seq%03d.png",
        "seq?.png",
        "seq*.png",
        "seq[0-2].png",
        f"{planted}/seq%d.png",
        *(f"{scheme}://127.0.0.1:{port}/planted.mp4" for scheme in ("http", "https", "HTTP", "hls+http", "mmsh")),
        *(f"{scheme}://127.0.0.1:{port}/planted.mp4" for scheme in ("rtmp", "rtsp", "ftp", "tcp", "tls", "gopher")),
        *(f"{scheme}://127.0.0.1:{port}" for scheme in ("udp", "rtp", "srtp", "sctp", "ipfs")),
        f"http:127.0.0.1:{port}/planted.mp4",
        "//planted.mp4",
        "planted.mp4\0",
        "planted.mp4\0.mkv",
        "/dev/zero",
        "/dev/stdin",
        "a" * 5000,
        "",
        ".",
    ]
    for name in names:
        for source in (name, Path(name)) if "\0" not in name else (name,):
            with pytest.raises(VideoError) as error:
                decode_candidates(source)
            one_sentence(error)
    assert watch.opened() == set()
    watch.close()
    assert server.reached == 0


@pytest.mark.parametrize("ending", FILMS)
def test_a_file_with_a_strange_name_is_that_file(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    film = write_video(tmp_path / f"film.{ending}", numbered_frames(50), options={"g": "10"}, **FILMS[ending])
    expected = decode_candidates(film)
    film.rename("0")
    names = [
        "concat:0|0",
        "subfile,,start,0,end,0,,:0",
        "file:0",
        "http:0",
        "data:0",
        "pipe:0",
        "-",
        "-i",
        "img%03d.png",
        "*",
        "?.mp4",
        "a\nb.mp4",
        "ü.mp4",
        os.fsdecode(b"\xff.mp4"),
        "film.m3u8",
        "film.ffconcat",
        "film.mpd",
        "film.sdp",
        "film.idx",
        "film.txt",
        "film",
    ]
    watch = WatchedFolder(tmp_path)
    for name in names:
        os.rename("0", name)
        watch.opened()
        for source in (name, os.path.join(tmp_path, name), Path(name)):
            video = decode_candidates(source)
            assert (video.frames == expected.frames).all(), name
            assert video.name == name
        assert watch.opened() == {name}
        os.rename(name, "0")
    watch.close()


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    os.symlink(tmp_path / "nowhere.mp4", tmp_path / "link.mp4")
    for name in ("pipe.mp4", "link.mp4"):
        with pytest.raises(VideoError) as error:
            decode_candidates(tmp_path / name)
        one_sentence(error)


# -- what a header claims ------------------------------------------------------------------------------------------

LOOK = """
import resource, sys, time
from ntlbg.processors.video_decoding_ntlbg import VideoError, decode_candidates
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
for path in sys.argv[1:]:
    try:
        print(len(decode_candidates(path)), "frames")
    except VideoError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_small_file_that_claims_much_is_refused_before_it_unfolds(tmp_path, film, fragmented):
    made = bombs(film.read_bytes(), fragmented.read_bytes())
    for kind, content in made.items():
        (tmp_path / f"{kind}.mp4").write_bytes(content)
        assert len(content) < 10**6, kind
    paths = [str(tmp_path / f"{kind}.mp4") for kind in made]
    looked = subprocess.run([sys.executable, "-c", LOOK, *paths], capture_output=True, text=True, check=True)
    *sentences, growth = looked.stdout.splitlines()
    for kind, sentence in zip(made, sentences, strict=True):
        assert "claims" in sentence or "compressed header" in sentence or "edit list" in sentence, (kind, sentence)
    assert float(growth) < 64, f"refusing them took {growth} MiB"
    for kind, content in made.items():
        with pytest.raises(VideoError) as error:
            decode_candidates(io.BytesIO(content))
        one_sentence(error), kind


def test_what_a_file_may_hold_is_not_refused(tmp_path, film):
    content = film.read_bytes()
    # as much as it costs, and a cut-off recording of uncompressed sound
    few = claiming(content, 2**20)
    check_tables(io.BytesIO(few), len(few), "few", VideoLimits())
    edits = box("elst", struct.pack(">II", 0, 60) + 60 * struct.pack(">IIHH", 500, 512, 1, 0))
    edited = decode_candidates(with_box(content, (*TABLES[:2], "edts"), box("edts", edits)), candidate_fps=1)
    assert 25 <= len(edited) <= 30, "60 edits of half a second"
    sound = write_audio(tmp_path / "sound.mov").read_bytes()
    at = sound.index(b"stsz") - 4
    assert sound[at + 12 : at + 16] != bytes(4), "sound of one size is what was meant"
    long = with_box(sound, (*TABLES, "stsz"), full_box("stsz", 2, 48_000 * 7200))
    long = with_box(long, (*TABLES, "stts"), full_box("stts", 1, 48_000 * 7200, 1))
    with pytest.raises(VideoError, match="no video stream, only audio"):
        decode_candidates(long)


def test_the_frame_limit_holds_before_anything_is_unfolded(film):
    with pytest.raises(VideoError, match=r"200000 samples, more than twice the limit of 50 pictures") as error:
        decode_candidates(claiming(film.read_bytes(), 200_000), limits=VideoLimits(max_frames=50))
    one_sentence(error)
    assert len(decode_candidates(film, limits=VideoLimits(max_frames=50))) == 4


# -- what pictures cost --------------------------------------------------------------------------------------------


def test_a_picture_that_grows_in_mid_stream_is_stopped_by_the_pixel_limit(tmp_path):
    # The header speaks of small pictures; larger ones follow in the bit stream: only the decoder can notice.
    small = write_video(tmp_path / "small.ts", numbered_frames(30), options={"x264-params": "log-level=none"})
    large = write_video(
        tmp_path / "large.ts", numbered_frames(30, 640, 960), options={"x264-params": "log-level=none"}
    )
    (tmp_path / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    video = decode_candidates(tmp_path / "grows.ts", candidate_fps=25, limits=VideoLimits(max_pixels=64 * 96))
    assert video.frames.shape[1:] == (64, 96, 3)
    assert any("could not be decoded" in w or "cannot be decoded" in w for w in video.warnings)


def test_no_decoder_starts_threads(tmp_path):
    # dav1d, for AV1, starts them whatever the thread type is; in damaged streams they wait for each other forever
    films = [ODD[name](tmp_path / name) for name in ("av1.mp4", "closed_gop.mp4", "vp9.webm", "hevc_10_bit.mp4")]
    for path in films:
        before = set(os.listdir("/proc/self/task"))
        with VideoFile(path, threads=1) as video:
            video.read(np.arange(40, 48))
            assert set(os.listdir("/proc/self/task")) <= before, path.name


def test_good_films_still_open(planted):
    for name in ("planted.mp4", "planted.ts", "planted.mpg"):
        video = decode_candidates(planted / name)
        assert np.isfinite(video.timestamps).all()
        assert len(video) >= 2
