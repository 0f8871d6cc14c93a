"""Our metrics are modules of `evaluate`: by class or by the path of their file, without a download."""

import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

import ntlbg.evaluation.metrics as room
from ntlbg.evaluation.metrics.moment_highlights import MomentHighlights


CHOICE = {"options": ["red", "green"], "answer_index": 1, "group": ""}
SALIENCY = {"clip_len": 2.0, "clip_ids": [1, 2], "scores": [[4, 2, 0], [1, 3, 2]]}

CASES = {
    "multiple_choice": (["B", "A", "?"], [CHOICE] * 3, {}, "accuracy", 1 / 3),
    "exact_match": (["Red.", "blue"], ["red", "red"], {}, "exact_match", 0.5),
    "judged_answer": (["yes"], [{"question": "q", "answer": "a"}], {"judge": lambda *_: 0.25}, "judged", 0.25),
    "evidence_recall": ([[1.0, 5.0]], [[[0, 2], [8, 9]]], {"k": 2}, "evidence_recall", 0.5),
    "temporal_grounding": ([[0, 5], None], [[[0, 10]], [[0, 10]]], {}, "miou", 0.25),
    "moment_highlights": (
        [{"windows": [[0, 10, 1]], "saliency": [0.1, 0.9, 0.5, 0.2]}],
        [{"spans": [[0, 10]], "duration": 8, "saliency": SALIENCY}],
        {},
        "saliency_map_fair",
        2.5 / 3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_metric_is_loaded_from_its_file(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    predictions, references, options, key, value = CASES[name]
    metric = evaluate.load(str(Path(room.__file__).parent / f"{name}.py"), cache_dir=str(tmp_path))
    assert metric.compute(predictions=predictions, references=references, **options)[key] == pytest.approx(value)


def test_every_metric_of_the_room_is_tested():
    assert {path.stem for path in Path(room.__file__).parent.glob("*.py")} - {"__init__"} == set(CASES)


def test_a_metric_by_class_gathers_batches(tmp_path):
    metric = MomentHighlights(cache_dir=str(tmp_path))
    for windows in ([[0, 10, 1]], []):
        metric.add_batch(
            predictions=[{"windows": windows, "saliency": None}],
            references=[
                {"spans": [[0, 10]], "duration": 20.0, "saliency": {"clip_len": 2.0, "clip_ids": [], "scores": []}}
            ],
        )
    assert metric.compute()["map"] == 0.5


def test_the_scores_need_neither_evaluate_nor_datasets():
    code = (
        "import sys, ntlbg, ntlbg.evaluation.answer_scores, ntlbg.evaluation.highlight_scores;"
        "assert not {'evaluate', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
