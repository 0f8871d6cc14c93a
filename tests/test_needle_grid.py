"""Needles in long videos: where they lie, that nothing else answers, and what the grid counts."""

import json

import numpy as np
import pytest

from ntlbg.data.needles import NEEDLES, needle_video
from ntlbg.evaluation import needle_grid
from ntlbg.evaluation.needle_grid import DEPTHS, depths_of_files, drawn_shares, grids, main, wilson
from ntlbg.evaluation.needle_report import mean_share, verdicts


SPREAD = [0.0, 0.3, 0.6, 1.0]


@pytest.mark.parametrize("duration", [150, 3600])
def test_each_needle_is_where_it_should_be_and_alone_answers_its_question(duration):
    for seed in range(12):
        spec, questions = needle_video(seed, duration, SPREAD, 4)
        for depth, question in zip(SPREAD, questions, strict=True):
            ((start, end),) = question.spans
            assert (start, end) == (round(depth * (duration - 4)), round(depth * (duration - 4)) + 4)
            (asked,) = question.subject
            (only,) = [event for event in spec.events if asked in (event.shape, event.color)]
            assert (only.start, only.end) == (start, end)
            assert question.answer in (only.shape, only.color)
            assert question.answer != asked


def test_no_event_meets_another():
    for seed in range(12):
        spec, _ = needle_video(seed, 300, SPREAD, 4)
        ends = [event.end for event in spec.events]
        assert all(event.start > end for event, end in zip(spec.events[1:], ends, strict=False))
        assert spec.events[0].start >= 0
        assert ends[-1] <= spec.duration


def test_the_hay_could_be_mistaken_for_the_needle():
    names = {"shape": 0, "color": 0}
    for seed in range(12):
        spec, questions = needle_video(seed, 300, SPREAD, 4)
        for question in questions:
            for part in names:
                names[part] += sum(getattr(event, part) == question.answer for event in spec.events) > 1
    # The answer alone (a colour, say) is on screen at other times too, in most videos.
    assert sum(names.values()) > 12 * NEEDLES / 2


@pytest.mark.parametrize(
    ("depths", "seconds", "said"),
    [([0, 0.5, 1], 4, "4 shares"), ([0, 0.5, 1, 2], 4, "4 shares"), ([0, 0.01, 0.5, 1], 4, "would meet")],
)
def test_needles_that_cannot_be_are_refused(depths, seconds, said):
    with pytest.raises(ValueError, match=said):
        needle_video(0, 150, depths, seconds)


def test_every_depth_is_asked_once_a_seed():
    assert sorted(depth for depths in depths_of_files() for depth in depths) == list(range(DEPTHS))


def test_each_seed_draws_where_in_its_eighth_a_needle_lies():
    for depths in depths_of_files():
        drawn = np.array([drawn_shares(seed, 5, depths) for seed in range(40)])
        assert (np.floor(drawn * DEPTHS) == depths).all()
        # The whole of the eighth is drawn from, and no two seeds draw alike.
        within = drawn * DEPTHS - depths
        assert (within.min(axis=0) < 0.15).all()
        assert (within.max(axis=0) > 0.85).all()
        assert len(np.unique(drawn)) == drawn.size
        assert drawn_shares(3, 5, depths) == drawn_shares(3, 5, depths)


def test_the_grid_counts_by_hand():
    def cell(right, seen):
        return {"right": right, "seen": seen}

    both = {"8": cell([True, True, False, True], [True, True, True, True])}
    none = {"8": cell([False] * 4, [False, True, False, False])}
    rows = [
        {"minutes": 5, "depths": [0, 2, 4, 6], "ntlbg": both, "uniform": none},
        {"minutes": 5, "depths": [1, 3, 5, 7], "ntlbg": both, "uniform": none},
        {"minutes": 60, "depths": [0, 2, 4, 6], "ntlbg": none, "uniform": both},
        {"minutes": 60, "depths": [1, 3, 5, 7], "ntlbg": none, "uniform": none},
    ]
    result = {"grids": grids(rows, [5, 60], [8]), "minutes": [5, 60], "groups": [8]}
    assert result["grids"]["ntlbg"]["8"]["right"] == [[1, 1, 1, 1, 0, 0, 1, 1], [0] * 8]
    assert result["grids"]["uniform"]["8"]["seen"] == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0, 1, 0]]
    assert mean_share(result, "ntlbg", 8, 10) == 0.75
    assert mean_share(result, "ntlbg", 8, 60) == 0.375
    assert "ntlbg 0.750 (promised 0.95: not held; the needle is among its groups in 1.000)" in verdicts(result)[0]


def test_wilsons_interval_of_a_worked_case():
    low, high = wilson(19, 20)
    assert (low, high) == (pytest.approx(0.7639, abs=1e-4), pytest.approx(0.9911, abs=1e-4))
    assert wilson(20, 20)[1] == 1.0


def test_lengths_without_room_for_the_needles_are_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--minutes", "1", "--work", str(tmp_path), "--out", str(tmp_path / "needles")])
    assert ended.value.code == 2
    assert "at least 128, but is 60" in capsys.readouterr().err


def test_the_bench_runs_whole_and_goes_on(tmp_path, capsys, monkeypatch):
    few = ["--minutes", "2.5", "--groups", "8", "--split", "validation", "--work", str(tmp_path)]
    few += ["--out", str(tmp_path / "needles")]
    main([*few, "--seeds", "1"])
    first = json.loads((tmp_path / "needles.json").read_text())["grids"]
    # What is there already is not asked again.
    monkeypatch.setattr(needle_grid, "run_file", None)
    main([*few, "--seeds", "1"])
    assert json.loads((tmp_path / "needles.json").read_text())["grids"] == first
    assert "2.5 min, N = 150" in (tmp_path / "needles.md").read_text()
    assert (tmp_path / "needles.png").stat().st_size > 10_000
    capsys.readouterr()
