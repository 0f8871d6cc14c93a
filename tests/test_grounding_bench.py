"""The grounding bench: hand-worked figures, and what a batch is made of."""

import json
from pathlib import Path

import pytest
import torch

from ntlbg.evaluation.grounding_bench import FORMATS, MixedCollator, Settings, filmed_rows
from ntlbg.evaluation.grounding_report import WANTED, draw, summarise, to_markdown


PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "grounding.json"


def _rows(videos: int) -> list[dict]:
    saliency = {"clip_len": 2.0, "clip_ids": [5], "scores": [[4.0, 4.0, 4.0]]}
    row = {"spans": [[10.0, 20.0]], "duration": 40.0, "saliency": saliency}
    return [row | {"video_id": f"v{number // 2}"} for number in range(2 * videos)]


def _results(rows: list[dict]) -> dict:
    right, half = [[10.0, 20.0]] * len(rows), [[10.0, 30.0]] * len(rows)
    unread = [None if number % 2 else [10.0, 20.0] for number in range(len(rows))]
    curve = [[0.0] * 5 + [1.0] + [0.0] * 14] * len(rows)
    results = {}
    for name in FORMATS:
        results |= {f"{name} | ntlbg": {"spans": right, "texts": ["a"]}, f"{name} | uniform": {"spans": half}}
        results[f"{name}, untrained | ntlbg"] = {"spans": unread, "texts": ["b"]}
    results["span head | ntlbg"] = {"spans": right, "saliency": curve}
    return results | {"span head | uniform": {"spans": half, "saliency": [list(reversed(one)) for one in curve]}}


def test_scores_differences_and_intervals_are_those_of_the_rows(tmp_path):
    rows = _rows(10)
    result = summarise(_results(rows), rows)
    scores = result["scores"]
    assert scores["text | ntlbg"]["miou"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert scores["text | uniform"]["miou"]["mean"] == pytest.approx(0.5)
    assert scores["text | uniform"]["r1@0.5"]["mean"] == 1
    # Of two rows a video one cannot be read: it scores 0, and every video is alike.
    unread = scores["tokens, untrained | ntlbg"]
    assert unread["miou"] == unread["unparsed"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert (scores["span head | ntlbg"]["hit1"]["mean"], scores["span head | uniform"]["hit1"]["mean"]) == (1, 0)
    assert result["ntlbg_less_uniform"]["span head"]["miou"]["mean"] == pytest.approx(0.5)
    told = {"settings": Settings().__dict__, "train_seconds": [60.0], "command": "x"}
    result |= told | {"commits": {"trained": ["a"], "asked": "b"}}
    page = to_markdown(result, "grounding")
    page = page.replace("wanted ", "of ")
    above = {"mean": 0.2, "low": 0.1, "high": 0.3}
    better = result | {
        "drawn_less_none": {
            **result["drawn_less_none"],
            "": {"miou": above, "r1@0.5": {"mean": 0.0, "low": -0.1, "high": 0.1}},
        }
    }
    assert "span head, frames by ntlbg: miou 1.000 (of 0.6), r1@0.5 1.000 (of 0.7), hit1 1.000 (of 0.8): yes." in page
    assert "span head, frames by uniform: miou 0.500 (of 0.6), r1@0.5 1.000 (of 0.7), hit1 0.000 (of 0.8): no." in page
    assert "the trained model is better in mIoU and neither better nor worse in R1@.5" in to_markdown(better, "x")
    assert "the trained model is neither better nor worse in mIoU" in page
    assert "at least 50.0 % name no span" in page
    assert "Tried before." in to_markdown(result | {"notes": ["Tried before."]}, "x")
    draw(result, tmp_path / "grounding.png")
    assert (tmp_path / "grounding.png").stat().st_size > 10_000


def test_a_batch_has_one_format_and_the_same_rows_always_the_same():
    class Named:
        def __init__(self, name):
            self.name = name

        def __call__(self, rows):
            grids = torch.tensor([[64, 4, 4]] * len(rows))
            return {
                "name": self.name,
                "video_grid_thw": grids,
                "group_timestamps": torch.arange(64.0).repeat(len(rows)),
            }

    collator = MixedCollator({name: Named(name) for name in FORMATS}, k=8)
    batches = [collator([{"id": f"row {number}"}, {"id": "other"}]) for number in range(400)]
    again = collator([{"id": "row 7"}, {"id": "other"}])
    assert (again["name"], "selection" in again) == (batches[7]["name"], "selection" in batches[7])
    for name, (_, _, share) in FORMATS.items():
        assert sum(batch["name"] == name for batch in batches) / 400 == pytest.approx(share, abs=0.08)
    even = [batch["selection"] for batch in batches if "selection" in batch]
    assert 0.4 < len(even) / 400 < 0.6
    assert even[0][1].indices.tolist() == [4, 12, 20, 28, 36, 44, 52, 60]


def test_videos_are_filmed_once(tmp_path):
    (*rows,) = filmed_rows(tmp_path, "validation", 1)
    path = Path(rows[0]["video_path"])
    before = path.stat().st_mtime_ns
    assert [row["id"] for row in filmed_rows(tmp_path, "validation", 1)] == [row["id"] for row in rows]
    assert path.stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*.part"))


def test_the_committed_page_holds_what_is_told_of_the_span_head():
    scores = json.loads(PAGE.read_text())["scores"]["span head | ntlbg"]
    assert {metric: scores[metric]["mean"] >= least for metric, least in WANTED.items()} == dict.fromkeys(WANTED, True)
