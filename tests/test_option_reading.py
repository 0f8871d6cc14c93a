"""An option is read where an answer plainly names it, and is never guessed; every reader reads it alike."""

import pytest

from ntlbg.evaluation.answer_scores import choice_scores
from ntlbg.evaluation.harness_questions import TaskQuestion
from ntlbg.evaluation.option_reading import option_letter, option_number
from ntlbg.evaluation.rows_benchmark import score


OPTIONS = ("a red car", "a man", "Ida", "the Answer is B")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (C) ", "C"),
        ("A.", "A"),
        ("**B**", "B"),
        ("B) a m", "B"),  # cut off in the middle of the option
        ("C. Ida, because she waves.", "C"),
        ("a red car", "A"),
        ("Ida", "C"),
        ("the Answer is B", "D"),  # an option's own words, before what they seem to say
        ("The correct answer is (B).", "B"),
        ("Answer: C", "C"),
        ("Best option: (A", "A"),
        ("B\nThe man walks.", "B"),
        ("The answer is B, so option B.", "B"),
        ("The answer is A or the answer is B", None),
        ("A man walks", None),
        ("I think she waves", None),
        ("It is Answer Z", None),
        ("E", None),
        ("E. she", None),
        ("Based on the video", None),
        ("The answer is Don't know", None),
        ("", None),
        ("7", None),
    ],
)
def test_a_letter_is_read_where_it_is_plainly_one(text, letter):
    assert option_letter(text, OPTIONS) == letter


THINGS = ("dog", "cat", "A man in red", "tree")


@pytest.mark.parametrize(
    "text",
    [
        "Option B is wrong.",
        "I would rule out option B.",
        "We can rule the option out: option B",
        "Option A is incorrect, so B",
        "Option A is incorrect, so the answer is B",
        "Answer: A or B",
        "Answer: A, or B",
        "(A) or (B)",
        "(A) or (b)",
        "[A], [B]",
        "A) is wrong",
        "A: no, it is B",
        "A. dog B. cat",
        "A. cat",
        "A. The cat runs.",
        "A\nNo, that is wrong.",
        "dog\nor rather cat",
        "dog\nB",
        "The answer is not B.",
        "I don't think the answer is B.",
        "I don’t think the answer is B.",
        "The answer is B. Wait, that isn't right.",
        "The answer is B, the dog.",
        "The answer is: A man in red, or B.",
        "The answer is: A man in blue.",
        "If the answer is B, a cat is seen.",
        "Any animal other than option B.",
        "Is the answer B?",
        "Answer: the dog or the cat",
        "The answer is a",  # cut off: the letter, or the article
        "A is wrong. The answer is B.",
        "Options A, B",
    ],
)
def test_what_is_taken_back_or_named_beside_another_is_not_guessed(text):
    assert option_letter(text, THINGS) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is: A man in red.", "C"),
        ("The answer is A man in red", "C"),
        ("Answer: tree", "D"),
        ("The answer is (C) A man in red.", "C"),
        ("The answer is B - cat", "B"),
        ("The answer is B because it meows.", "B"),
        ("Option B is correct.", "B"),
        ("A man walks by. The answer is B.", "B"),
        ("It does not bark. The answer is B.", "B"),
        ("B. cat, because it meows", "B"),
        ("**Answer:** (B)", "B"),
        ("[B]", "B"),
        ("D. It stands there because nothing has moved it.", "D"),
        ("A. A small one.", "A"),
        ("tree\nIt is green.", "D"),
    ],
)
def test_an_announced_or_marked_option_is_read(text, letter):
    assert option_letter(text, THINGS) == letter


def test_the_words_of_one_option_in_those_of_another_are_told_apart():
    options = ("a car", "a car that is not red", "an old_car*")
    texts = ("B. a car that is not", "B. a car", "A. a car that is not red")
    assert [option_letter(text, options) for text in texts] == ["B", None, None]
    assert option_letter("The answer is: a car that is not red.", options) == "B"
    assert option_letter("an old_car*", options) == option_letter("**C. an old_car***", options) == "C"


def test_a_letter_with_the_words_of_two_options_names_neither():
    assert option_number("A dog", ("dog", "cat", "a dog")) is None
    assert option_number("", ("?", "cat")) is None


def test_options_beyond_the_alphabet_are_named_by_their_words():
    assert option_number("thing 27", [f"thing {number}" for number in range(30)]) == 27


@pytest.mark.parametrize("text", ["The answer is (B).", "B. cat", "it may be B", "A or B", "Option B is wrong."])
def test_metric_benchmark_and_harness_read_the_same(text):
    row = {"options": list(THINGS), "answer_index": 1}
    unparsed = choice_scores([text], [row])["unparsed"] == 1
    assert (score(row, text)[1], TaskQuestion("?", "letter", THINGS).reduced(text) is not None) == (not unparsed,) * 2
    assert unparsed == (text not in ("The answer is (B).", "B. cat"))
