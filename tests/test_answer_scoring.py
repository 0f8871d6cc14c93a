"""Answers are read strictly: what names no option is wrong and counted, never guessed."""

import pytest

from ntlbg.training.answer_scoring import AnswerScores, parse_option, score_answer


OPTIONS = ["a red car", "A blue car", "nothing", "B"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B.", 1),
        ("B. a blue car", 1),
        ("(C): Nothing.", 2),
        ("a red car.", 0),
        (" A \n", 0),
        ("E", None),
        ("Answer: C", None),
        ("A or B", None),
        ("A. a blue car", None),
        ("a car", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_its_letter_or_its_words_and_by_nothing_else(text, number):
    assert parse_option(text, OPTIONS) == number


def test_two_options_of_the_same_words_are_not_told_apart():
    assert parse_option("yes", ["yes", "Yes."]) is None


def test_scores_add_up_to_shares():
    rows = [
        {"answer": "a dog", "options": ["a cat", "a dog"], "answer_index": 1},
        {"answer": "a cat", "options": ["a cat", "a dog"], "answer_index": 0},
        {"answer": "Three."},
        {"answer": "four"},
    ]
    total = sum(
        (score_answer(text, row) for text, row in zip(["B", "?", "three", "5"], rows, strict=True)), AnswerScores()
    )
    assert total.metrics() == {
        "answered": 4,
        "exact_match": 0.5,
        "multiple_choice_accuracy": 0.5,
        "unparsed_answers": 1,
    }
    assert AnswerScores().metrics() == {"answered": 0}
