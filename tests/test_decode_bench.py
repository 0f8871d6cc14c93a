"""The decoder bench on a tiny film: it measures, keeps that, names what is missing, lists what was missed."""

import copy
import sys
from dataclasses import asdict

import pytest

from ntlbg.evaluation import decode_jobs
from ntlbg.evaluation.decode_bench import LIBRARIES, Measurer, compare_looks, measure, plan, summary, usable
from ntlbg.evaluation.decode_films import Film, make_film
from ntlbg.evaluation.decode_report import draw, to_markdown


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

FILM = Film("tiny", 256, 144, seconds=40, events=2, seed=1, blind=True, keyint=300)
WAYS = tuple(decode_jobs.WAYS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    make_film(FILM, folder)
    return folder


@pytest.fixture(scope="module")
def result(folder):
    """One round in this process, of ours alone; of the encoder a figure, its measurement is all of a second's work."""
    *jobs, encoder = plan([FILM.name], [FILM.name], [4, 512], ["ours"])
    assert encoder == {"task": "encoder"}
    tasks = {"grid": decode_jobs.grid, "passes": decode_jobs.passes}
    path = str(folder / "tiny.mp4")
    taken = [tasks[job["task"]](path=path, **{k: v for k, v in job.items() if k != "task"}) for job in jobs]
    rows = summary([*jobs, encoder], [[*taken, {"cpu": 0.25}]])
    compare_looks(rows)
    return {
        "films": {FILM.name: asdict(FILM)},
        "events": {FILM.name: [asdict(event) for event in make_film(FILM, folder)[1]]},
        "libraries": {"ours": "PyAV", "decord": "not measured: it is not installed"},
        "rounds": 1,
        "found_by": decode_jobs.FOUND_BY,
        "rows": rows,
        "command": "make bench-decode",
        "commit": "0000000",
        "machine": "this",
    }


def test_what_is_measured_is_what_was_asked_for(result):
    grids = [row for row in result["rows"] if row["task"] == "grid"]
    assert [(row["count"], row["threads"], row["frames"]) for row in grids] == [
        (4, 1, 4),
        (512, 1, 512),
        (512, 2, 512),
    ]
    assert all(row["cpu"] > 0 and row["differs"] == 0 and "looks" not in row for row in grids)


def test_memory_is_that_of_the_frames_and_what_decodes_them(folder):
    few, many = (
        Measurer(folder).run({"task": "grid", "film": "tiny", "count": count, "library": "ours", "threads": 1})
        for count in (4, 512)
    )
    # 512 frames of 224 x 126 are 41 MiB
    assert many["memory"] > 41 > few["memory"] > 0


def test_a_scan_sees_every_event_and_blind_keyframes_do_not(result):
    rows = {row["way"]: row for row in result["rows"] if row["task"] == "passes"}
    assert tuple(rows) == WAYS
    for way, widest in (("grid of 4096", 0.05), ("scan, gaps of 2 s", 2.0), ("scan, gaps of 4 s", 4.0)):
        assert all(rows[way]["seen"])
        assert rows[way]["widest"] <= widest
    alone = rows["keyframes alone"]
    assert alone["widest"] == 12.0
    assert not all(alone["seen"])
    assert not any(found and not seen for seen, found in zip(alone["seen"], alone["found"], strict=True))


def test_the_page_says_what_was_measured_and_lists_what_was_missed(result, tmp_path):
    changed = copy.deepcopy(result)
    scan = next(row for row in changed["rows"] if row.get("way") == WAYS[1])
    dense = next(row for row in changed["rows"] if row.get("way") == WAYS[0])
    dense["cpu"], scan["cpu"], scan["found"] = 30.0, 5.0, [True, False]
    page = to_markdown(changed, "decode")
    assert f"{WAYS[1]}: 1 of 2 events found; cheaper than the grid: tiny 6.0" in page
    assert "At least 5: met in all 1 cases." in page
    missed = changed["events"]["tiny"][1]
    listed = page.split("does not find:")[1]
    assert f"- tiny, {missed['start']:.1f} to {missed['end']:.1f} s ({missed['kind']}): {WAYS[1]}" in listed
    assert "decord: not measured: it is not installed" in page
    draw(changed, tmp_path / "decode.png")
    assert (tmp_path / "decode.png").stat().st_size > 10_000


def test_a_measurement_is_kept_and_not_taken_twice(folder):
    jobs = [{"task": "grid", "film": "tiny", "count": 2, "library": "ours", "threads": 1}]
    (row,) = measure(Measurer(folder), jobs, 1)
    assert row["frames"] == 2
    again = Measurer(folder)
    again.run = None  # nothing is left to run
    assert measure(again, jobs, 1) == [row]


def test_a_measurement_that_fails_says_why(folder):
    with pytest.raises(RuntimeError, match="there is no such file"):
        Measurer(folder).run({"task": "grid", "film": "absent", "count": 2, "library": "ours"})


def test_a_library_that_does_not_run_is_named_and_left_out(folder):
    libraries, notes = usable(Measurer(folder), "tiny")
    assert libraries[0] == "ours"
    assert set(notes) == set(LIBRARIES[1:])
    for name, note in notes.items():
        assert (name in libraries) != note.startswith("not measured: ")
