"""What a harness asks is known by its documents; a span is reduced to what it plainly says, and to nothing else."""

import subprocess
import sys

import pytest

from ntlbg.evaluation.harness_questions import span_of, task_question


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2.0 - 7.5 seconds", (2.0, 7.5)),
        ("[2.0, 7.5]", (2.0, 7.5)),
        ("The event happens in the 24.3 - 30.4 seonds.", (24.3, 30.4)),
        ("from 2s to 7.5s", (2.0, 7.5)),
        ("00:02 - 01:07.5", (2.0, 67.5)),
        ("It starts at 3 seconds and ends at 12 seconds.", (3.0, 12.0)),
        ("Start time: 0.8 seconds\nEnd time: 1.1 seconds", (0.8, 1.1)),
        ("between 4 and 9 seconds", (4.0, 9.0)),
        ("9 - 4 seconds", None),
        ("From frame 12 to frame 20", None),
        ("at 5 seconds", None),
        ("in 2019, twice", None),
        ("", None),
    ],
)
def test_a_span_is_read_where_two_times_make_one(text, span):
    assert span_of(text) == span


LVB = {"question": "What?", "correct_choice": 0, "option0": "x", "option1": "y", "option2": "N/A", "option3": "N/A"}


@pytest.mark.parametrize(
    ("doc", "prompt", "query", "options", "unread"),
    [
        ({**LVB, "option4": "N/A"}, "What?\nA. x\nB. y", "What?", ("x", "y"), "C"),
        ({**LVB, "option2": "z", "option3": "u", "option4": "v"}, "", "What?", ("x", "y", "z", "u", "v"), ""),
        ({"question": "How?", "options": ["A. x.", "B. y."]}, "How?\nA. x.\nB. y.", "How?", ("x.", "y."), ""),
        ({"question": "How?\n(A) x\n(B) y"}, "How?\n(A) x\n(B) y\nBest option: (", "How?", ("x", "y"), ""),
    ],
)
def test_a_document_with_options_is_asked_by_its_bare_question(doc, prompt, query, options, unread):
    asked = task_question(doc, prompt)
    assert (asked.kind, asked.query, asked.options, asked.unread) == ("letter", query, options, unread)


@pytest.mark.parametrize(
    ("doc", "query"),
    [
        ({"question": "How?", "options": ["A. x", "B. y"]}, "How?"),  # its prompt asks openly
        ({"question": "How?", "options": ["A. x", "C. y"]}, "How?"),
        ({"question": "How?", "options": [1, 2]}, "How?"),
        ({"question": "How?"}, "How?"),
        ({"question": " "}, "Tell me how."),
        ({}, "Tell me how."),
    ],
)
def test_what_is_no_known_task_keeps_its_answers(doc, query):
    asked = task_question(doc, "Tell me how.")
    assert (asked.kind, asked.query, asked.reduced("Anything, [1, 2].")) == ("text", query, "Anything, [1, 2].")


def test_a_moment_is_asked_by_its_caption_and_told_as_the_parser_reads_it():
    asked = task_question({"caption": "a person runs", "timestamp": [1, 2]}, "Find: a person runs.")
    assert (asked.kind, asked.query, asked.reduced("[2, 7.46]")) == ("span", "a person runs", "2.0 - 7.5 seconds")
    timelens = task_question({"query": "a person runs", "span": "[[1, 2]]"}, "Find 'a person runs'.")
    assert (timelens.kind, timelens.query) == ("span", "a person runs")


def test_the_plug_in_is_found_without_loading_anything_heavy():
    code = (
        "import sys; from ntlbg.evaluation.lmms_plugin import manifest\n"
        "print([name for name in ('torch', 'transformers', 'av', 'numpy', 'lmms_eval') if name in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
