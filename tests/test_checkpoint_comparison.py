"""Two checkpoints side by side: paired by question, and told as it is."""

import json
from pathlib import Path

from ntlbg.evaluation.checkpoint_comparison import ALL, main, to_markdown
from ntlbg.evaluation.world_benchmark import paired_differences


TINY = str(Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny")


def page_of(first: list[bool], second: list[bool]) -> str:
    rows = {"a": {"order": first, ALL: first}, "b": {"order": second, ALL: second}}
    cell = {"accuracy": 50.0, "standard_error": 1.0, "asked": len(first)}
    result = {
        "checkpoints": ["a", "b"],
        "accuracy": {name: dict.fromkeys(kinds, cell) for name, kinds in rows.items()},
        "difference": paired_differences(rows["b"], rows["a"]),
        **{"videos": 4, "split": "test", "k": 8, "commit": "c", "machine": "m", "command": "x"},
    }
    return to_markdown(result)


def test_a_difference_is_told_only_where_its_interval_leaves_zero_out():
    even = [True, False] * 10
    assert "No difference is shown" in page_of(even, even)
    assert "A difference is shown for order" in page_of([False] * 20, [True] * 20)


def test_the_same_checkpoint_twice_answers_the_same(tmp_path):
    main([TINY, TINY + "/", "--videos", "1", "--split", "validation", "--out", str(tmp_path / "page")])
    first, second = json.loads((tmp_path / "page.json").read_text())["accuracy"].values()
    assert first == second
    assert first[ALL]["accuracy"] >= 75
    assert first[ALL]["asked"] == sum(row["asked"] for kind, row in first.items() if kind != ALL)
    assert "No difference is shown" in (tmp_path / "page.md").read_text()
