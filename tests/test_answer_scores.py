"""Answers are scored as worked out by hand; circular options count only when right in every rotation."""

import pytest

from ntlbg.errors import InputError
from ntlbg.evaluation.answer_scores import choice_scores, exact_scores, judged_scores, rotations
from ntlbg.evaluation.predictions import BadPrediction


ROW = {"id": "q", "options": ["red", "green", "blue", "black"], "answer_index": 1, "metadata": {"x": 1}}


def asked(row):
    return [{**turned, "group": turned["metadata"]["rotation_of"]} for turned in rotations(row)]


def letters(rows):
    return ["ABCD"[row["answer_index"]] for row in rows]


def test_every_rotation_has_the_same_right_option_in_another_place():
    turned = rotations(ROW)
    assert [row["options"][row["answer_index"]] for row in turned] == ["green"] * 4
    assert sorted(row["answer_index"] for row in turned) == [0, 1, 2, 3]
    assert [row["id"] for row in turned] == ["q#0", "q#1", "q#2", "q#3"]
    assert ROW["options"] == ["red", "green", "blue", "black"]


def test_a_question_with_circular_options_is_right_only_if_right_in_all_rotations():
    rows = asked(ROW) + asked({**ROW, "id": "p"})
    always_b = ["B"] * 4
    scores = choice_scores(letters(rows[:4]) + always_b, rows)
    assert scores == pytest.approx(
        {"accuracy": 5 / 8, "unparsed": 0, "answered": 8, "circular_accuracy": 0.5, "questions": 2}
    )


def test_a_missing_rotation_is_refused():
    rows = asked(ROW)
    with pytest.raises(InputError, match="'q' has 3 answers, which are not one for each rotation of its 4 options"):
        choice_scores(letters(rows[:3]), rows[:3])
    with pytest.raises(InputError, match="not one for each rotation"):
        choice_scores(["B"] * 4, [rows[0]] * 4)
    with pytest.raises(InputError, match="1 references have no 'group'"):
        choice_scores([*letters(rows), "B"], [*rows, ROW])


def test_an_answer_that_names_no_option_is_wrong_and_counted():
    scores = choice_scores(["B", "(b) green", "it may be B", None], [ROW] * 4)
    assert scores == {"accuracy": 0.5, "unparsed": 0.5, "answered": 4}


def test_exact_match_overlooks_case_spaces_and_the_full_stop_and_nothing_else():
    assert exact_scores(["A  Red car.", "a redcar", ""], ["a red car"] * 3)["exact_match"] == pytest.approx(1 / 3)


def test_the_judge_is_the_caller_s_and_sees_question_answer_and_reference():
    seen = []

    def judge(question, answer, reference):
        seen.append((question, answer, reference))
        return {"half": 0.5, "unsure": None}.get(answer, 1)

    references = [{"question": "what?", "answer": "a dog"}] * 4
    scores = judged_scores(["a hound", "half", "unsure", " "], references, judge)
    assert scores == {"judged": 1.5 / 4, "no_verdict": 0.25, "answered": 4}
    assert seen[0] == ("what?", "a hound", "a dog")
    assert len(seen) == 3


@pytest.mark.parametrize("verdict", [2, -1, "yes", float("nan")])
def test_a_judge_outside_of_its_scale_is_refused(verdict):
    with pytest.raises(InputError, match=r"share in \[0, 1\] or None"):
        judged_scores(["x"], [{"question": "q", "answer": "a"}], lambda *_: verdict)


def test_an_answer_that_is_no_text_is_refused_with_its_number():
    with pytest.raises(BadPrediction, match="prediction 2: an answer should be text, but is int 3"):
        exact_scores(["a", 3], ["a", "b"])
    with pytest.raises(InputError, match="reference 1 should have 'options'"):
        choice_scores(["A"], [{"answer_index": 0}])
