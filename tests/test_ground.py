"""`ntlbg ground` and `ntlbg highlights`: moments with a confidence, or plainly none; never the whole video instead."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import assert_one_sentence, clip, encoder, models, run  # noqa: F401 (fixtures)

from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.errors import InputError
from ntlbg.grounding.finding import find_by_numbers, find_by_text
from ntlbg.grounding.tasks import Grounding
from ntlbg.processors.frame_numbers_ntlbg import number_frames
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.image_answering import ImageAnswerer
from ntlbg.selection.video_answering import VideoAnswerer


TINY = Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny"
QUESTION = "where is the red car?"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A video of the procedural world with its retrieve questions."""
    ((spec, questions),) = split_questions("test", 1, duration=128, per_kind=4)
    path = tmp_path_factory.mktemp("world") / "world.mp4"
    write_video(spec, path, size=112)
    return str(path), [question for question in questions if question.kind == "retrieve"]


def test_a_trained_checkpoint_finds_when_what_was_asked_for_is_seen(capsys, world, tmp_path):
    path, questions = world
    found = 0
    for question in questions:
        report = tmp_path / "found.html"
        code, out, _ = run(capsys, "ground", path, question.text, "--model", TINY, "--json", "-", "--report", report)
        described = json.loads(out)
        assert code == (0 if described["spans"] else 1)
        assert len(described["saliency"]) == len(described["seconds"])
        assert report.read_text().count('class="moment"') == len(described["spans"])
        (start, end), *_ = question.spans
        for span in described["spans"]:
            assert 0 <= span["confidence"] <= 1
            assert {span["start"], span["end"]} <= {*described["seconds"], 128.0}  # a group's start or the next one's
            found += span["start"] < end and start < span["end"] and span["end"] - span["start"] < 16
    assert found >= 0.75 * len(questions)


@pytest.mark.parametrize("command", ["ground", "highlights"])
def test_an_encoder_finds_moments_or_says_that_none_stands_out(capsys, clip, encoder, command):  # noqa: F811
    code, out, err = run(capsys, command, clip, QUESTION, "--encoder", encoder, "--best", 3)
    if code == 0:
        assert "confidence" in out
    else:
        assert code == 1
        assert "no moment found" in out
        assert "No moment stands out" in err


def test_an_answer_that_names_no_moment_is_told_and_gives_none(capsys, clip, encoder, models):  # noqa: F811
    options = ("--model", models["llava"], "--encoder", encoder, "--json", "-", "-k", 3)
    for command in ("ground", "highlights"):
        code, out, err = run(capsys, command, clip, QUESTION, *options)
        described = json.loads(out)
        assert (code, described["spans"]) == (1, [])
        assert described["unread"]
        assert "names no moment" in err


class Says(ImageAnswerer):
    """A model of which only the words are given; everything it is shown is kept."""

    words = ""
    shown = None

    def _generate(self, messages, **options):
        self.shown = messages
        return self.words


def test_numbers_in_the_answer_are_those_on_the_frames_and_mean_their_times(clip, encoder, models):  # noqa: F811
    real = load_answerer(models["llava"], encoder=encoder)
    answerer = Says(real.model, real.processor, real.frames)
    answerer.words = "From Frame 3 to Frame 7."
    found = find_by_numbers(answerer, clip, QUESTION, 4)
    assert (found.spans[0].start, found.spans[0].end) == (found.seconds[3], found.seconds[7])
    plain = real.frames.select(clip, QUESTION, 4)
    pictures = [np.asarray(part["image"]) for part in answerer.shown[0]["content"] if part["type"] == "image"]
    assert len(pictures) == 4
    assert plain.positions.tolist() != list(range(4))
    for picture, expected in zip(pictures, number_frames(plain.frames, plain.positions), strict=True):
        np.testing.assert_array_equal(picture, expected)
    answerer.words = "From Frame 3 to Frame 700."
    found = find_by_numbers(answerer, clip, QUESTION, 4)
    assert found.spans == []
    assert "no frame 700" in found.unread
    first, second = (int(position) for position in plain.positions[:2])
    answerer.words = f"Highlights: frames {first}, {second}; scores 2, 4.5."
    found = find_by_numbers(answerer, clip, QUESTION, 4, highlights=True)
    assert (found.saliency[first], found.saliency[second]) == (0.4, 0.9)
    assert (found.spans[0].start, found.spans[0].end) == (found.seconds[first], found.seconds[second])


class Writes(VideoAnswerer):
    """An NTLBG model of which only the words are given; what it is told is kept."""

    words = ""
    told = None

    def _generate(self, *args, prompt=None, **options):
        self.told = prompt
        _, *rest = super()._generate(*args, prompt=prompt, **options)
        return self.words, *rest


def test_times_that_a_model_writes_are_those_of_its_candidates(clip):  # noqa: F811
    real = load_answerer(str(TINY))
    answerer = Writes(real.model, real.processor, max_new_tokens=2)
    answerer.processor.video_processor.number_frames = True
    opened, row = answerer.open(clip), {"question": QUESTION}
    seconds = opened.candidates.timestamps
    answerer.words = "From Frame 2 to Frame 5, From Frame 6 to Frame 7"
    found = find_by_text(opened, row, Grounding("numbers"), "moment", 2, most=2)
    assert [(span.start, span.end) for span in found.spans] == [(seconds[2], seconds[5]), (seconds[6], seconds[7])]
    assert 0 < found.spans[0].confidence <= 1
    assert answerer.told == Grounding("numbers").prompt("moment", row)
    answerer.words = "Highlights: 0.0, 1.0 seconds; scores 2, 4.5."
    found = find_by_text(opened, row, Grounding("text"), "highlights", 2)
    assert sorted(score for score in found.saliency if score is not None) == [0.4, 0.9]
    found = find_by_text(opened, row, Grounding("text"), "moment", 2)
    assert found.spans == []
    assert found.unread
    with pytest.raises(InputError, match="no time token '<0>'"):
        find_by_text(opened, row, Grounding("tokens"), "moment", 2)


def test_a_checkpoint_writes_times_on_request_and_the_page_tells_the_command(capsys, clip, tmp_path):  # noqa: F811
    for command, form in (("ground", "numbers"), ("highlights", "text")):
        report = tmp_path / f"{command}.html"
        options = ("--model", TINY, "--time-format", form, "--json", "-", "--report", report)
        code, out, _ = run(capsys, command, clip, QUESTION, *options)
        described = json.loads(out)
        assert described["answer"] is not None
        assert code == (0 if described["spans"] else 1)
        assert f"ntlbg {command}" in report.read_text()
        assert (f"ntlbg {'ground' if command == 'highlights' else 'highlights'}") not in report.read_text()


def test_bad_input_is_one_sentence(capsys, clip, models):  # noqa: F811
    for arguments in (
        ("ground", clip, " "),
        ("ground", clip, QUESTION, "--encoder", "none"),
        ("ground", "no-such-file.mp4", QUESTION),
        ("ground", clip, QUESTION, "--time-format", "text"),
        ("ground", clip, QUESTION, "--model", TINY, "--time-format", "tokens"),
        ("highlights", clip, QUESTION, "--best", "0"),
        (
            "ground",
            clip,
            QUESTION,
            "--model",
            models["llava"],
            "--encoder",
            "none",
            "--json",
            "/no/such/folder/x.json",
        ),
    ):
        assert_one_sentence(*run(capsys, *arguments))
