"""Accuracy against groups shown: what is counted, what is kept, and what the page says."""

import json

import numpy as np
import pytest

from ntlbg.evaluation.frames_benchmark import main, summarise, with_intervals
from ntlbg.evaluation.frames_report import verdicts


FIGURES = [[0.5, 0.1, 0.9, 0.3]]


def video(kinds, right):
    return {
        "asked": [{"kind": kind, "pieces": pieces} for kind, pieces in kinds],
        "right": right,
        "figures": {name: {k: FIGURES * len(kinds) for k in by} for name, by in right.items()},
    }


def test_the_macro_average_is_over_kinds_and_not_over_questions():
    videos = [
        video([("retrieve", 1), ("count", 3)], {"ntlbg": {"8": [1.0, 0.5]}, "uniform": {"8": [0.0, 0.0]}}),
        video([("retrieve", 1)], {"ntlbg": {"8": [0.0]}, "uniform": {"8": [1.0]}}),
    ]
    summary = with_intervals(summarise(videos))
    ours = summary["selectors"]["ntlbg"]["8"]
    assert summary["kinds"] == {"retrieve": 2, "count": 1}
    assert ours["accuracy"] == {"retrieve": 50.0, "count": 50.0}
    assert ours["macro"] == 50.0
    assert ours["pieces"] == {"1": 50.0, "3": 50.0}
    assert summary["selectors"]["uniform"]["8"]["macro"] == 25.0


def test_the_interval_of_a_difference_is_paired_by_video():
    videos = []
    rng = np.random.default_rng(0)
    for _ in range(60):
        hard = float(rng.random() < 0.5)
        # Where a video is hard it is so for both: the difference is always a tenth.
        videos.append(video([("count", 2)], {"ntlbg": {"8": [0.1 + 0.9 * hard]}, "uniform": {"8": [0.9 * hard]}}))
    row = with_intervals(summarise(videos))["selectors"]["uniform"]["8"]
    low, high = row["ours_less"]
    assert low == pytest.approx(10) == high
    assert row["events_less_uniform"] == [0, 0]


def test_a_run_that_was_cut_off_goes_on_and_ends_as_if_it_had_not_been(tmp_path, capsys):
    few = ["--split", "validation", "--seconds", "128", "--groups", "4", "8", "--work", str(tmp_path)]
    few += ["--selectors", "ntlbg", "uniform", "random", "ntlbg, other question", "oracle", "all"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main([*few, "--videos", "2", "--out", str(whole)])
    main([*few, "--videos", "1", "--out", str(cut)])
    with (tmp_path / "cut.jsonl").open("a") as file:
        file.write('{"number": 1, "asked"')  # the line that the end of the run cut
    main([*few, "--videos", "2", "--out", str(cut)])
    first, second = (json.loads(path.with_suffix(".json").read_text()) for path in (whole, cut))
    assert first["selectors"] == second["selectors"]
    assert set(first["selectors"]["all"]) == {"64"}
    page = cut.with_suffix(".md").read_text()
    assert "| ntlbg, other question |" in page
    assert cut.with_suffix(".png").stat().st_size > 10_000
    assert "N = 128 candidates at 1 a second" in page
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*few[:-1], "--videos", "2", "--out", str(cut)])
    assert ended.value.code == 2
    assert "holds results of something else (other selectors); give another --out" in capsys.readouterr().err


def test_the_sentences_follow_the_figures():
    def row(macro, events):
        gaps = {"ours_less": [-3.0, -1.0], "events_less_uniform": [-4.0, 2.0]}
        return {"macro": macro, "accuracy": {"count": events}, "events": events, **gaps}

    by = {
        "ntlbg": {"8": row(90.0, 90.0)},
        "uniform": {"8": row(50.0, 20.0), "32": row(80.0, 60.0)},
        "aks": {"8": row(92.0, 91.0)},
        "ntlbg, other question": {"8": row(49.0, 19.0)},
        "oracle": {"8": row(96.0, 96.0)},
        "all": {"64": row(72.0, 70.0)},
    }
    said = " ".join(verdicts({"selectors": by, "groups": [8]}))
    assert "best baseline is aks, 92.0 % (difference -2.0 [-3.0, -1.0])" in said
    assert "another question has 19.0 %, uniform 20.0 % (difference [-4.0, +2.0]), ntlbg 90.0 %" in said
    assert "75 % of the oracle's 96.0 %" in said
