"""Moments, highlights and evidence are scored as worked out by hand, and as the field's reference scores them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from ntlbg.errors import InputError
from ntlbg.evaluation.highlight_scores import (
    check_highlights,
    highlight_scores,
    moment_average_precision,
    saliency_average_precision,
)
from ntlbg.evaluation.predictions import BadPrediction, read_predictions
from ntlbg.evaluation.span_scores import check_span, evidence_scores, grounding_scores, temporal_iou


TRUTH = [[0.0, 10.0], [20.0, 30.0]]
WINDOWS = [[100, 110, 0.8], [0, 10, 0.9], [20, 28, 0.7]]
SALIENCY = {"clip_len": 2.0, "clip_ids": [1, 2], "scores": [[4, 2, 0], [1, 3, 2]]}


def moments(windows, spans=TRUTH):
    return highlight_scores([{"windows": windows}], [{"spans": spans}])


def highlights(saliency, duration=8.0, truth=SALIENCY):
    return highlight_scores([{"saliency": saliency}], [{"duration": duration, "saliency": truth}])


def test_iou_is_what_overlaps_by_what_either_covers():
    ious = temporal_iou(np.array([[0, 10], [5, 5]]), np.array([[5, 15], [20, 30], [0, 10]]))
    np.testing.assert_allclose(ious, [[1 / 3, 0, 1], [0, 0, 0]])


def test_a_span_is_held_against_the_annotated_one_it_fits_best_and_an_unread_answer_is_wrong():
    predictions = [[0, 10], [0, 5], None, [6, 10]]
    references = [[[0, 10]], [[50, 60], [0, 10]], [[0, 10]], [[0, 10]]]
    scores = grounding_scores(predictions, references)
    assert scores == pytest.approx(
        {"miou": (1 + 0.5 + 0 + 0.4) / 4, "r1@0.3": 0.75, "r1@0.5": 0.5, "r1@0.7": 0.25, "answered": 4, "unparsed": 1}
    )


def test_map_of_moments_worked_by_hand():
    # Up to .8 the windows are right, wrong, right in order of score: (1 + 2/3) / 2. Above, only the first.
    assert moments(WINDOWS)["map"] == pytest.approx((7 * 5 / 6 + 3 * 1 / 2) / 10)
    assert moments(WINDOWS)["map@0.5"] == pytest.approx(5 / 6)


def test_r1_looks_at_the_first_window_and_map_at_the_best_scored():
    assert [moments(WINDOWS)[f"r1@{t}"] for t in (0.3, 0.5, 0.7)] == [0, 0, 0]
    first = moments([[22, 28, 0.1], [0, 10, 0.9]])
    assert [first[f"r1@{t}"] for t in (0.3, 0.5, 0.7)] == [1, 1, 0]


def test_only_the_first_ten_windows_count_however_the_eleventh_is_scored():
    junk = [[200 + n, 201 + n, 0.1] for n in range(10)]
    assert moments([*junk, [0, 10, 1.0]], [[0, 10]])["map"] == 0
    assert moments([*junk[1:], [0, 10, 1.0]], [[0, 10]])["map"] == 1


def test_an_annotated_window_is_found_once():
    twice = moment_average_precision([[0, 10, 0.9], [0, 10, 0.8], [20, 30, 0.7]], np.array(TRUTH))
    np.testing.assert_allclose(twice, (1 + 2 / 3) / 2)


def test_lengths_are_scored_by_the_windows_of_that_length_alone():
    scores = moments([[0, 10, 0.9]], [[0, 10], [20, 40]])
    assert (scores["map_short"], scores["map_middle"]) == (1.0, 0.0)
    assert "map_long" not in scores


def test_a_query_without_windows_is_wrong_and_stays_in_the_mean():
    scores = highlight_scores([{"windows": []}, {"windows": [[0, 10, 1.0]]}], [{"spans": [[0, 10]]}] * 2)
    assert (scores["map"], scores["r1@0.5"], scores["no_windows"]) == (0.5, 0.5, 1)


def test_highlights_worked_by_hand():
    scores = highlights([0.1, 0.9, 0.5, 0.2])
    assert scores == pytest.approx(
        {
            "answered": 1,
            "hit1_fair": 1,
            "saliency_map_fair": (1 + 1 + 1 / 2) / 3,
            "hit1_good": 1,
            "saliency_map_good": (1 + 1 / 2 + 0) / 3,
            "hit1_very_good": 1,
            "saliency_map_very_good": 1 / 3,
            "no_saliency": 0,
        }
    )


def test_a_hit_needs_one_annotator_at_the_best_clip():
    assert highlights([0, 0.1, 0.9, 0])["hit1_good"] == 1
    assert highlights([0, 0.1, 0.9, 0])["hit1_very_good"] == 0
    assert highlights([0.9, 0.1, 0.2, 0])["hit1_fair"] == 0


def test_scores_of_clips_beyond_the_video_are_no_hit_and_missing_ones_are_zero():
    assert highlights([0, 0.5, 0.2, 0, 9.0])["hit1_fair"] == 0
    assert highlights([0.1, 0.5])["saliency_map_good"] == highlights([0.1, 0.5, 0, 0])["saliency_map_good"]


def test_the_average_precision_of_highlights_takes_the_envelope():
    assert saliency_average_precision([0, 1, 1], [3, 2, 1]) == pytest.approx(2 / 3)
    assert saliency_average_precision([1, 1], [0, 0]) == 1
    assert saliency_average_precision([0, 0], [1, 0]) == 0


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=12))
def test_the_average_precision_of_highlights_is_the_reference_s_on_any_curve(clips):
    positive, scores = np.array([clip[0] for clip in clips]), np.array([clip[1] for clip in clips])
    if 0 < positive.sum() < len(positive):
        precision, recall, _ = precision_recall_curve(positive, scores)
        steps = np.flatnonzero(np.diff(recall.astype(np.float32)))
        expected = np.maximum.accumulate(precision)[steps].mean()
        assert saliency_average_precision(positive, scores) == pytest.approx(expected)


def test_evidence_recall_asks_for_a_frame_in_every_piece():
    scores = evidence_scores([[1.0, 25.0, 40.0], [9.0, 50.0], [1.0], [1.0]], [TRUTH, TRUTH, None, []], k=3)
    assert scores == pytest.approx(
        {
            "evidence_recall": 0.75,
            "all_evidence": 0.5,
            "evidence_precision": (2 / 3 + 1 / 2) / 2,
            "answered": 2,
            "without_evidence": 2,
        }
    )
    assert evidence_scores([[10.5]], [[[0, 10]]])["evidence_recall"] == 0
    assert evidence_scores([[10.5]], [[[0, 10]]], tolerance=0.5)["evidence_recall"] == 1
    with pytest.raises(BadPrediction, match="prediction 2: 3 frames were chosen, but 2 are allowed"):
        evidence_scores([[1.0], [1.0, 2.0, 3.0]], [TRUTH, TRUTH], k=2)


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        ([7.0, 2.0], r"0 <= start <= end in seconds, but is \[7, 2\]"),
        ([1.0], "list of 2 numbers"),
        ("2 - 7", "list of 2 numbers"),
        ([1.0, float("nan")], "finite numbers"),
        ([True, 2], "finite numbers"),
        ([-1, 2], "0 <= start"),
    ],
)
def test_a_malformed_span_is_refused_with_its_line(prediction, reason, tmp_path):
    with pytest.raises(BadPrediction, match=f"prediction 2: .*{reason}"):
        grounding_scores([[0, 1], prediction], [TRUTH, TRUTH])
    lines = [{"id": "a", "prediction": [0, 1]}, {"id": "b", "prediction": prediction}]
    (tmp_path / "spans.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    with pytest.raises(BadPrediction, match=f"spans.jsonl, line 3: .*{reason}"):
        read_predictions(tmp_path / "spans.jsonl", ["a", "b"], check_span)


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        ({"windows": [[0, 10]]}, r"windows\[0\] should be a list of 3 numbers"),
        ({"windows": [[0, 10, 1], [9, 3, 1]]}, r"windows\[1\] should have 0 <= start"),
        ({"windows": "all"}, "list of"),
        ({"saliency": [0.1, None]}, "finite numbers"),
        ({"pred_relevant_windows": []}, "'windows', 'saliency' or both"),
        (None, "'windows', 'saliency' or both"),
    ],
)
def test_malformed_moments_and_highlights_are_refused_with_their_line(prediction, reason, tmp_path):
    with pytest.raises(BadPrediction, match=f"prediction 1: .*{reason}"):
        highlight_scores([prediction], [{"spans": TRUTH}])
    (tmp_path / "moments.jsonl").write_text(json.dumps({"id": "a", "prediction": prediction}))
    with pytest.raises(BadPrediction, match=f"moments.jsonl, line 1: .*{reason}"):
        read_predictions(tmp_path / "moments.jsonl", ["a"], check_highlights)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: it is no JSON"),
        ("[1]", "line 2: a line is an object"),
        ('{"id": "b"}', "line 2: a line is an object with 'id' and 'prediction'"),
        ('{"id": "c", "prediction": null}', "line 2: no row has the id 'c'"),
        ('{"id": "a", "prediction": null}', "line 2: the id 'a' was there before"),
        ("", "no prediction for 1 of 2 rows, first 'b'"),
    ],
)
def test_a_file_of_predictions_answers_every_row_once(line, reason, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prediction": [0, 1]}\n' + line + "\n")
    with pytest.raises(InputError, match=reason):
        read_predictions(tmp_path / "p.jsonl", ["a", "b"], check_span)


def test_predictions_are_read_in_the_order_of_the_rows(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": 2, "prediction": [1, 2]}\n{"id": 1, "prediction": null}\n')
    assert read_predictions(tmp_path / "p.jsonl", ["1", "2"], check_span) == [None, [1.0, 2.0]]


def test_references_that_cannot_be_scored_by_are_refused():
    with pytest.raises(InputError, match="reference 1 has no span"):
        grounding_scores([[0, 1]], [[]])
    with pytest.raises(InputError, match="1 predictions for 2 references"):
        grounding_scores([[0, 1]], [TRUTH, TRUTH])
    with pytest.raises(InputError, match="no 'saliency'"):
        highlight_scores([{"saliency": [1.0]}], [{"spans": TRUTH}])
    with pytest.raises(InputError, match="no question has spans"):
        evidence_scores([[1.0]], [None])
