"""A few of the mutated files that `make fuzz-decode` makes by the thousand."""

import io
import json

import fuzz_decode
import numpy as np
import pytest
from fuzz_decode import MEMORY, MUTATIONS, SECONDS, described, fuzzed, look, make_bases, mutated, page, run
from pool_jobs import fail


BASES = (
    "closed_gop.mp4",
    "open_gop.ts",
    "fragmented.mp4",
    "many_references.mkv",
    "vp9.webm",
    "program_stream.mpg",
    "b_frames.avi",
    "flash.flv",
    "windows.asf",
    "picture.gif",
    "edit_list.mp4",
    "photo.jpg",
    "photo.png",
    "photo.webp",
)
FILES = 84


class Mistaken(io.BytesIO):
    """A file object with a mistake of its own."""

    def seek(self, *where):
        raise KeyError("a mistake")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return make_bases(tmp_path_factory.mktemp("bases"), BASES)


def test_mutated_files_give_frames_or_a_sentence_in_bounded_time_and_memory(bases):
    results = run(range(FILES), bases, seed=1)
    assert sorted(result.number for result in results) == list(range(FILES))
    assert [result for result in results if result.outcome not in ("frames", "refused")] == []
    assert max(result.seconds for result in results) < SECONDS
    assert max(result.megabytes for result in results) < MEMORY / 2**20
    found = described(results, 1, 60.0)
    assert found["outcomes"]["frames"] > 20
    assert found["outcomes"]["refused"] > 20
    assert f"{FILES} files" in page(json.loads(json.dumps(found)))


def test_a_crash_a_hang_a_bug_and_too_much_memory_are_told_apart(bases, monkeypatch):
    results = run(range(2), bases, seed=1, wait=0.5, look=fail)
    assert {result.number: (result.outcome, result.retried) for result in results} == {
        0: ("crash", False),
        1: ("hang", True),
    }
    page_of_failures = page(json.loads(json.dumps(described(results, 1, 1.0))))
    assert "closed_gop.mp4" in page_of_failures.split("## Failures")[1]
    assert look(2, None, bases=bases, seed=1).outcome in ("frames", "refused")
    with monkeypatch.context() as patch:
        patch.setattr(fuzz_decode, "MEMORY", -1)
        assert look(2, None, bases=bases, seed=1).outcome == "memory"
        patch.setattr(fuzz_decode, "SECONDS", 0.0)
        assert look(2, None, bases=bases, seed=1).outcome == "hang"
    with monkeypatch.context() as patch:
        patch.setattr(fuzz_decode, "_way", lambda path, number: Mistaken())
        broken = look(2, None, bases=bases, seed=1)
        assert broken.outcome == "bug"
        assert "KeyError" in broken.text


def test_a_file_follows_from_its_seed_and_number(bases):
    first, again, other = fuzzed(bases, 3, 7), fuzzed(bases, 3, 7), fuzzed(bases, 4, 7)
    assert first == again
    assert first[3] != other[3]


@pytest.mark.parametrize("kind", MUTATIONS)
def test_every_mutation_changes_something_and_leaves_something(kind):
    content, other = bytes(range(256)) * 40, b"abcd" * 900
    rng, changed = np.random.default_rng(0), 0
    for _ in range(20):
        data = bytes(MUTATIONS[kind](bytearray(content), other, rng))
        changed += data != content
    assert changed > 10
    assert mutated(content, other, rng)[1]
