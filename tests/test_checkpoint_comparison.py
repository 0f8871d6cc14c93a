"""Two checkpoints side by side: paired by question, and told as it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from ntlbg.evaluation.bootstrap import paired_interval
from ntlbg.evaluation.checkpoint_comparison import ALL, compared, main, to_markdown


TINY = str(Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny")


def page_of(first: list[bool], second: list[bool]) -> str:
    first, second = (list(enumerate(values)) for values in (first, second))
    right = {"a": {"order": first, ALL: first}, "b": {"order": second, ALL: second}}
    result = {
        "checkpoints": ["a", "b"],
        "splits": {"test": {"ntlbg": compared(right)}},
        **{"videos": 4, "k": 8, "commit": "c", "machine": "m", "command": "x"},
    }
    return to_markdown(result)


def test_a_difference_is_told_only_where_its_interval_leaves_zero_out():
    even = [True, False] * 10
    assert "No difference is shown" in page_of(even, even)
    assert "A difference is shown for order" in page_of([False] * 20, [True] * 20)


def test_questions_of_one_video_are_drawn_together():
    alone, together = np.arange(40), np.repeat(np.arange(4), 10)
    difference = np.repeat([1.0, 0.0, 1.0, 0.0], 10)
    low, high = paired_interval(difference, alone)
    assert (low, high) == pytest.approx((0.35, 0.65), abs=0.03)
    assert paired_interval(difference, together) == (0.0, 1.0)


def test_the_same_checkpoint_twice_answers_the_same(tmp_path):
    words = ["--videos", "1", "--split", "validation", "test-pairs", "--selectors", "ntlbg", "oracle"]
    main([TINY, TINY + "/", *words, "--out", str(tmp_path / "page")])
    splits = json.loads((tmp_path / "page.json").read_text())["splits"]
    assert {split: list(by) for split, by in splits.items()} == dict.fromkeys(words[3:5], words[6:])
    first, second = splits["validation"]["ntlbg"]["accuracy"].values()
    assert first == second
    assert first[ALL]["accuracy"] >= 75
    assert first[ALL]["asked"] == sum(row["asked"] for kind, row in first.items() if kind != ALL)
    assert "No difference is shown" in (tmp_path / "page.md").read_text()
