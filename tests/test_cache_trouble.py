"""The cache of features when its folder, its processes or its bound make trouble: the look succeeds and says so."""

import contextlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cache_parts import assert_same, entries, entry_of
from tiny_encoders import save_encoder, scenes, write_video

import ntlbg.selection.feature_cache as feature_cache
from ntlbg.cli import main
from ntlbg.errors import InputError
from ntlbg.processors.video_decoding_ntlbg import VideoLimits
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.encoders import DualEncoder
from ntlbg.selection.feature_cache import ABANDONED_SECONDS, default_cache_dir


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes(lengths=(12, 15, 9), flash=None))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(kind, folder / kind) for kind in ("clip", "siglip", "siglip2")}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


# -- trouble with the folder ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_of_at_most(size: int):
    """Every write beyond `size` bytes of a file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", ["clip", "siglip", None])
@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_costs_one_warning_and_leaves_nothing_behind(room, kind, clip, encoders, folder):
    encoder = None if kind is None else str(encoders[kind])
    selector = FrameSelector(encoder, cache_dir=folder)
    expected = FrameSelector(encoder).select(clip, k=4)
    with files_of_at_most(room):
        chosen = selector.select(clip, k=4)
    (note,) = chosen.warnings
    assert "The features were not kept" in note
    assert str(folder) in note
    assert "file too large" in note
    chosen.warnings.clear()
    assert chosen.to_dict() == expected.to_dict()
    assert entries(folder) == {}
    assert selector.select(clip, k=4).warnings == []
    assert len(entries(folder)) == 1


def test_a_full_disk_leaves_the_entries_that_are_there_as_they_are(clip, folder):
    FrameSelector(None, cache_dir=folder).encode(clip)
    before = entries(folder)
    with files_of_at_most(100):
        assert FrameSelector(None, candidate_fps=5, cache_dir=folder).encode(clip).warnings
        assert FrameSelector(None, cache_dir=folder).encode(clip).warnings == []
    assert entries(folder) == before


def test_a_damaged_entry_goes_also_when_there_is_no_room_for_a_good_one(clip, folder):
    FrameSelector(None, cache_dir=folder).encode(clip)
    entry_of(folder).write_bytes(b"damage")
    with files_of_at_most(100):
        damaged, full = FrameSelector(None, cache_dir=folder).encode(clip).warnings
    assert "its checksum is wrong" in damaged
    assert "were not kept" in full
    assert entries(folder) == {}


@pytest.mark.parametrize("place", ["a file", "below a file", "no permission"])
def test_a_folder_that_cannot_be_written_costs_one_warning(place, clip, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir(mode=0o500)
    if place == "no permission" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = {"a file": "file", "below a file": "file/cache", "no permission": "closed/cache"}[place]
    chosen = select_frames(clip, k=4, cache_dir=tmp_path / folder)
    (note,) = chosen.warnings
    assert str(tmp_path / folder) in note
    chosen.warnings.clear()
    assert chosen.to_dict() == select_frames(clip, k=4).to_dict()
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "closed").iterdir()) == []


def test_a_video_that_changes_while_it_is_looked_at_is_not_kept(clip, encoders, folder, tmp_path):
    growing = Path(shutil.copy(clip, tmp_path / "growing.mp4"))
    encoder = DualEncoder.load(str(encoders["clip"]))

    def grow(*_):
        with growing.open("ab") as file:
            file.write(bytes(10))

    hook = encoder.model.vision_model.register_forward_hook(grow)
    (note,) = FrameSelector(encoder, cache_dir=folder).encode(growing).warnings
    assert "changed while it was looked at" in note
    assert entries(folder) == {}
    hook.remove()
    assert FrameSelector(encoder, cache_dir=folder).encode(growing).warnings == []
    assert len(entries(folder)) == 1


# -- the bound -----------------------------------------------------------------------------------------------------


def same_sized(clip: Path, folder: Path, number: int, **options) -> Path:
    """Encode under limits of its own; the entry that this made or used."""
    before = set(entries(folder))
    limits = VideoLimits(max_duration=1000.0 + number)
    features = FrameSelector(None, limits=limits, cache_dir=folder, **options).encode(clip)
    assert features.warnings == []
    made = set(entries(folder)) - before
    return folder / made.pop() if made else None


def test_what_was_used_longest_ago_leaves_first_and_the_bound_holds(clip, folder):
    oldest, second, third = (same_sized(clip, folder, number) for number in range(3))
    for age, path in ((300, oldest), (200, second), (100, third)):
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert same_sized(clip, folder, 0) is None
    bound = sum(path.stat().st_size for path in folder.iterdir()) + 10
    fourth = same_sized(clip, folder, 3, cache_bytes=bound)
    assert set(folder.iterdir()) == {oldest, third, fourth}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= bound


def test_an_entry_above_the_bound_is_not_stored_and_nothing_leaves_for_it(clip, folder):
    path = same_sized(clip, folder, 0)
    before = entries(folder)
    bound = path.stat().st_size
    features = FrameSelector(None, candidate_fps=10, cache_dir=folder, cache_bytes=bound).encode(clip)
    assert f"more than the cache's bound of {bound}" in features.warnings.pop()
    assert_same(features, FrameSelector(None, candidate_fps=10).encode(clip))
    assert entries(folder) == before


def test_a_bound_or_a_folder_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        FrameSelector(None, cache_dir=tmp_path, cache_bytes=0)
    with pytest.raises(ValueError, match="cache folder is empty"):
        FrameSelector(None, cache_dir="")


# -- processes -----------------------------------------------------------------------------------------------------


# Serves one job a line, so that the libraries are imported once for all tests. A killed job runs in a fork of its own;
# there the kernel ends the process at the hundredth byte of a file, with no chance to clean up.
WORKER = """
    import hashlib, json, os, resource, signal, sys
    import torch
    from ntlbg.processors.video_decoding_ntlbg import VideoLimits
    from ntlbg.selection.api import DualEncoder, FrameSelector

    def encode(encoder, clip, folder, bound, rounds, keys, killed):
        encoder = None if encoder is None else DualEncoder.load(encoder, "cpu")
        if killed:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        for number in range(rounds):
            limits = VideoLimits(max_duration=1000.0 + number % keys)
            features = FrameSelector(encoder, limits=limits, cache_dir=folder, cache_bytes=bound).encode(clip)
            yield [hashlib.sha256(features.descriptors.numpy()).hexdigest(), features.warnings]

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        if job["killed"]:
            child = os.fork()
            if child == 0:
                list(encode(**job))
                os._exit(0)
            answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            answer = list(encode(**job))
        print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def workers():
    """Two processes that can do the same thing at the same time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER)], env=environment, **pipes) for _ in range(2)
    ]
    yield both
    for process in both:
        process.kill()
        process.communicate()


def do(workers, encoder, clip, folder, bound=10**9, rounds=1, keys=1, killed=False) -> list:
    """What each of the workers gives for a job that all of them do at once."""
    encoder = None if encoder is None else str(encoder)
    job = {
        "encoder": encoder,
        "clip": str(clip),
        "folder": str(folder),
        "bound": bound,
        "rounds": rounds,
        "keys": keys,
    }
    for process in workers:
        process.stdin.write(json.dumps({**job, "killed": killed}) + "\n")
        process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in workers]


def digest_of(features) -> str:
    return feature_cache.hashlib.sha256(features.descriptors.numpy()).hexdigest()


def test_two_processes_share_one_cache(workers, clip, encoders, folder):
    do(workers, None, clip, folder.with_name("warm"))
    seen = do(workers, encoders["clip"], clip, folder, rounds=4, keys=2)
    expected = [digest_of(FrameSelector(str(encoders["clip"])).encode(clip)), []]
    assert seen == [[expected] * 4] * 2
    assert len(entries(folder)) == 2
    assert all(name.endswith(".features") for name in entries(folder))


def test_two_processes_that_push_each_other_out_stay_right_and_within_the_bound(workers, clip, folder):
    bound = 2 * same_sized(clip, folder, 0).stat().st_size
    seen = do(workers, None, clip, folder, bound=bound, rounds=60, keys=5)
    assert seen == [[[digest_of(FrameSelector(None).encode(clip)), []]] * 60] * 2
    assert len(entries(folder)) <= 2
    assert all(name.endswith(".features") for name in entries(folder))


def test_an_entry_is_replaced_whole_so_that_a_reader_of_the_old_one_reads_it_to_its_end(clip, encoders, folder):
    encoder = DualEncoder.load(str(encoders["clip"]))
    reading = []

    def another_is_first(*_):
        hook.remove()
        FrameSelector(encoder, cache_dir=folder).encode(clip)
        reading.append((entries(folder), entry_of(folder).open("rb")))

    hook = encoder.model.vision_model.register_forward_hook(another_is_first)
    expected = FrameSelector(encoder, cache_dir=folder).encode(clip)
    assert expected.warnings == []
    ((first, file),) = reading
    assert first.keys() == entries(folder).keys()
    assert first != entries(folder)
    with file:
        assert file.read() == entry_of(folder).read_bytes()


def test_a_process_killed_in_the_middle_of_a_write_leaves_nothing_that_is_trusted(workers, clip, encoders, folder):
    encoder = str(encoders["siglip"])
    assert do(workers[:1], encoder, clip, folder, killed=True) == [-signal.SIGXFSZ]
    part = entry_of(folder)
    assert part.suffix == ".part"
    assert part.stat().st_size == 100

    # As long as it may be a living writer's it is left alone.
    selector = FrameSelector(encoder, cache_dir=folder)
    assert_same(selector.encode(clip), FrameSelector(encoder).encode(clip))
    assert len(entries(folder)) == 2
    assert part.exists()

    old = part.stat().st_mtime - ABANDONED_SECONDS - 1
    os.utime(part, (old, old))
    FrameSelector(encoder, candidate_fps=5, cache_dir=folder).encode(clip)
    assert not part.exists()
    assert len(entries(folder)) == 2


# -- where, and the command ----------------------------------------------------------------------------------------


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path, clip):
    for name in ("NTLBG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "ntlbg"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_cache_dir() == tmp_path / ".cache" / "ntlbg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "ntlbg"
    monkeypatch.setenv("NTLBG_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    FrameSelector(None).encode(clip)
    FrameSelector(None, cache_dir=False).encode(clip)
    assert not (tmp_path / "own").exists()
    FrameSelector(None, cache_dir=True).encode(clip)
    assert len(entries(tmp_path / "own")) == 1
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_without_a_home_the_default_folder_is_refused_in_one_sentence(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("NTLBG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match=r"NTLBG_CACHE.*--no-cache"):
        FrameSelector(None, cache_dir=True)


def test_the_second_select_reuses_what_the_first_saw_unless_it_is_told_not_to(capsys, monkeypatch, clip, tmp_path):
    monkeypatch.setenv("NTLBG_CACHE", str(tmp_path / "default"))
    command = ["select", str(clip), "-k", "4"]
    assert main([*command, "--no-cache"]) == 0
    assert not (tmp_path / "default").exists()
    expected = capsys.readouterr()
    for _ in range(2):
        assert main(command) == 0
        written = entries(tmp_path / "default")
        assert capsys.readouterr() == expected
        assert len(written) == 1
    assert main([*command, "--cache", str(tmp_path / "other")]) == 0
    assert len(entries(tmp_path / "other")) == 1
    assert entries(tmp_path / "default") == written


def test_the_command_goes_on_when_the_cache_cannot_be_used_and_refuses_what_is_no_folder(
    capsys, monkeypatch, clip, tmp_path
):
    (tmp_path / "file").write_text("mine")
    command = ["select", str(clip), "-k", "4"]
    assert main([*command, "--no-cache"]) == 0
    expected = capsys.readouterr()
    monkeypatch.setenv("NTLBG_CACHE", str(tmp_path / "file" / "below"))
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == expected.out
    assert err.startswith("ntlbg: note: The features were not kept")
    assert err.count("\n") == 1
    for bad in ("", str(tmp_path / "file")):
        assert main([*command, "--cache", bad]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "is no folder; give one, or --no-cache" in err
