"""The ablation of the training losses: hand-worked figures, and the whole bench at the smallest scale."""

import json
import math

import numpy as np
import pytest

from ntlbg.data.questions import KINDS
from ntlbg.evaluation import loss_ablation
from ntlbg.evaluation.loss_report import gap_closed, summarise, verdicts, weights_of_draws


def test_the_gap_closed_is_the_way_from_uniform_to_oracle():
    assert gap_closed(0.40, 0.25, 0.75) == pytest.approx(30)
    assert gap_closed(0.25, 0.25, 0.75) == 0
    assert gap_closed(0.15, 0.25, 0.75) == pytest.approx(-20)
    np.testing.assert_allclose(gap_closed([0.5, 1.0], [0.0, 0.5], [1.0, 1.0]), [50, 100])
    assert math.isnan(gap_closed(0.5, 0.5, 0.5))


def _result(right, found=None):
    count = len(right)
    found = [1.0] * count if found is None else found
    return {
        "right": right,
        "found": found,
        "constraint": [0.5] * count,
        "uniformity": [0.8] * count,
        "cpu_seconds": 1,
        "commit": "c0",
    }


def _found(task, evidence, videos=40):
    """Two questions a video: retrieve, and one about the whole. Uniform knows a quarter, oracle all of retrieve."""
    both = lambda right: [answer for one in right for answer in (one, True)]  # noqa: E731
    quarter = both([number % 4 == 0 for number in range(videos)])
    seen = [value for _ in range(videos) for value in (1.0, None)]
    given = {
        "uniform": _result(quarter, seen),
        "oracle": _result([True] * (2 * videos), seen),
        "untrained": _result(quarter, seen),
    }
    runs = {
        name: [_result(both([number % 4 < right for number in range(videos)]), seen) for right in rights]
        for name, rights in (("task", task), ("task + evidence", evidence))
    }
    return {
        "kinds": ["retrieve", "scenes"] * videos,
        "videos": [f"v{number}" for number in range(videos) for _ in range(2)],
        "given": given,
        "runs": runs,
    }


def test_the_summary_is_that_of_hand_counted_answers():
    # Of four retrieve questions task answers 2, 2 and 2; with evidence 4, 4 and 3.
    result = summarise(_found(task=(2, 2, 2), evidence=(4, 4, 3)))
    assert result["right"]["task"] == {"retrieve": 50, "scenes": 100}
    assert result["gap"]["task"]["mean"] == pytest.approx(100 / 3)
    assert result["gap"]["untrained"] == {"mean": 0, "low": 0, "high": 0}
    assert result["gap"]["task + evidence"]["mean"] == pytest.approx(100 * (11 / 12 - 1 / 4) / (3 / 4))
    more = result["less_task"]["task + evidence"]["retrieve"]
    assert more["mean"] == pytest.approx(100 * 5 / 12)
    assert 0 < more["low"] < more["mean"] < more["high"]
    assert result["gap"]["task"]["low"] > 0
    assert "as wanted" in verdicts(result)[0]
    assert "no difference" in verdicts(result)[1]  # both saw every event


def test_the_page_says_so_when_the_task_alone_falls_short():
    result = summarise(_found(task=(1, 1, 2), evidence=(4, 4, 4)))
    assert result["gap"]["task"]["mean"] == pytest.approx(100 / 9)
    assert "not what is wanted" in verdicts(result)[0]


def test_whole_videos_and_seeds_are_drawn():
    of_seeds, of_questions = weights_of_draws(3, ["a", "a", "b", "c"], draws=50)
    assert (of_seeds.sum(axis=1) == 3).all()
    assert (of_questions[:, 0] == of_questions[:, 1]).all()
    assert (of_questions[:, 1:].sum(axis=1) == 3).all()
    assert len(np.unique(of_questions, axis=0)) > 5


def test_the_bench_runs_whole_keeps_its_runs_and_writes_its_page(tmp_path, monkeypatch, capsys):
    flags = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "losses"), "--seeds", "0", "1"]
    flags += ["--only", "task", "all four + evidence", "--train-videos", "2", "--eval-videos", "2"]
    flags += ["--train-seconds", "128", "--seconds", "128", "--steps", "2", "--batch", "2", "--train-k", "64"]
    loss_ablation.main(flags)
    result = json.loads((tmp_path / "losses.json").read_text())
    assert list(result["right"]) == ["uniform", "oracle", "untrained", "task", "all four + evidence"]
    assert set(result["asked"]) <= set(KINDS)
    assert result["asked"]["retrieve"] == 2
    page = (tmp_path / "losses.md").read_text()
    assert "![Gap closed and events seen](losses.png)" in page
    assert (tmp_path / "losses.png").stat().st_size > 5000
    kept = sorted(path.name for path in (tmp_path / "work" / "runs").glob("*/*.json"))
    assert kept == [
        "allfour_evidence-0.json", "allfour_evidence-1.json", "oracle.json", "task-0.json", "task-1.json",
        "uniform.json", "untrained.json",
    ]  # fmt: skip
    log = json.loads(next((tmp_path / "work" / "runs").glob("*/allfour_evidence-0.json")).read_text())["log"]
    assert {"loss_task", "loss_ntlbg", "loss_context", "loss_evidence"} <= log[-1].keys()
    assert log[0]["weight_ntlbg"] > 0
    alone = json.loads(next((tmp_path / "work" / "runs").glob("*/task-0.json")).read_text())["log"]
    assert alone[0]["weight_ntlbg"] == alone[0]["weight_evidence"] == 0

    # A second call finds all runs and trains nothing.
    monkeypatch.setattr(loss_ablation, "train", None)
    loss_ablation.main(flags)
    assert (tmp_path / "losses.md").read_text() == page
