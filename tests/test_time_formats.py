"""When, as text: what a format writes it reads back, within its error; what names no span is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntlbg.grounding.tasks import clip_saliency
from ntlbg.grounding.time_formats import (
    BINS,
    NumberFormat,
    TextFormat,
    TimeParseError,
    TokenFormat,
    parse_highlights,
)


durations = st.floats(0.5, 86_400)
shares = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(duration=durations, share=shares, bins=st.sampled_from([100, BINS]))
@pytest.mark.parametrize("kind", [TokenFormat, TextFormat])
def test_a_time_comes_back_within_duration_over_m_and_then_stays(kind, duration, share, bins):
    times, second = kind(duration, bins), duration * share
    again = times.decode(times.encode(second))
    assert abs(again - second) < duration / bins
    assert 0 <= again <= duration
    assert times.decode(times.encode(again)) == again


@settings(max_examples=40, deadline=None)
@given(duration=durations, shares=st.tuples(shares, shares))
@pytest.mark.parametrize("kind", [TokenFormat, TextFormat])
def test_a_span_comes_back_out_of_a_sentence(kind, duration, shares):
    times = kind(duration)
    start, end = sorted(share * duration for share in shares)
    found = times.parse_span(f"It happens there: {times.encode_span(start, end)}.")
    assert np.abs(np.subtract(found, (start, end))).max() < duration / BINS


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.floats(0.01, 9), min_size=2, max_size=60), shares=st.tuples(shares, shares))
@pytest.mark.parametrize("step", [1, 2])
def test_numbers_mean_the_true_times_at_a_variable_rate(step, steps, shares):
    seconds = np.cumsum([0.0, *steps])
    times = NumberFormat(seconds, step)
    for number in range(0, len(seconds), step):
        assert times.decode(times.encode(seconds[number])) == seconds[number]
    start, end = sorted(share * seconds[-1] for share in shares)
    found = times.parse_span(times.encode_span(start, end) + ".")
    numbered = seconds[::step]
    for second, came in zip((start, end), found, strict=True):
        assert abs(came - second) == np.abs(numbered - second).min()


@settings(max_examples=150, deadline=None)
@given(duration=st.floats(4, 20_000), clip_len=st.sampled_from([1.0, 2.0, 5.0]), where=shares, bins=st.just(BINS))
@pytest.mark.parametrize("kind", [TokenFormat, TextFormat, "frames"])
def test_the_mark_of_a_clip_lies_in_it_wherever_the_format_has_one(kind, duration, clip_len, where, bins):
    marks = np.arange(0, duration, 1.999) if kind == "frames" else np.arange(bins + 1) / bins * duration
    times = NumberFormat(marks, 1, duration) if kind == "frames" else kind(duration, bins)
    clip = int(where * math.ceil(duration / clip_len - 1) * 0.999)
    start, end = clip * clip_len, min((clip + 1) * clip_len, duration)
    second = times.mark(start, end)
    again = times.decode(times.encode(second))
    inside = ((marks > start + 1e-5) & (marks < end - 1e-5)).any()
    if inside or kind is TextFormat:
        assert np.flatnonzero(clip_saliency([(again, 3.0)], duration, clip_len)).tolist() == [clip]
    else:
        assert abs(again - (start + end) / 2) <= np.abs(marks - (start + end) / 2).min() + 1e-5


@pytest.mark.parametrize(
    "text",
    [
        "-5 - 8 seconds",
        "–5 - 8 seconds",
        "10-20-30 seconds",
        "10 - 20 - 30 seconds",
        "10 to 20 to 30 seconds",
    ],
)
def test_a_negative_time_or_a_chain_of_times_is_no_span(text):
    with pytest.raises(TimeParseError):
        TextFormat(60.0).parse_spans(text)


def test_numbers_at_29_97_are_not_those_of_a_rounded_rate():
    seconds = np.arange(0, 18_000, 60) * 1001 / 30_000
    assert NumberFormat(seconds).parse_span("From Frame 100 to Frame 299.") == (seconds[100], seconds[299])
    assert seconds[299] - 2 * 299 == pytest.approx(0.598)


def test_the_floor_rule_by_hand():
    times = TokenFormat(60.0)
    assert [times.encode(t) for t in (0.0, 0.19, 0.2, 30.0, 59.99, 60.0)] == [
        "<0>",
        "<0>",
        "<1>",
        "<150>",
        "<299>",
        "<300>",
    ]
    assert times.parse_spans("<10><20>, then <30> to <300>") == [(2.0, 4.0), (6.0, 60.0)]
    assert times.encode_span(2.0, 4.0) == "<10><20>"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("From Frame 3 to Frame 7.", (6.0, 14.0)),
        ("from 3 to 7", (6.0, 14.0)),
        ("It is FROM FRAME 3 TO FRAME 3, or from frame 5 to frame 6", (6.0, 6.0)),
    ],
)
def test_numbers_are_read_as_the_reference_reads_them(text, span):
    assert NumberFormat(np.arange(0, 40, 2.0)).parse_span(text) == span


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2.0 - 7.5 seconds", (2.0, 7.5)),
        ("from 2.0 to 7.5 s", (2.0, 7.5)),
        ("2 seconds to 7.5 seconds.", (2.0, 7.5)),
        ("0 – 60.04 seconds", (0.0, 60.0)),
    ],
)
def test_seconds_are_read(text, span):
    assert TextFormat(60.0).parse_span(text) == span


NUMBERS, TOKENS, TEXT = NumberFormat(np.arange(20.0)), TokenFormat(20.0), TextFormat(20.0)


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (NUMBERS, ""),
        (NUMBERS, "I cannot tell."),
        (NUMBERS, "Frames 3, 4 and 5"),
        (NUMBERS, "from frame 3 to frame 20"),
        (NUMBERS, "from frame 7 to frame 3"),
        (NUMBERS, "from frame 3.5 to frame 7"),
        (NUMBERS, "from frame 3 to frame 7.5"),
        (NUMBERS, "from frame -3 to frame 7"),
        (NUMBERS, "from frame 3 to frame " + "9" * 10_000),
        (TOKENS, "from 3 to 7"),
        (TOKENS, "<3>"),
        (TOKENS, "<3><4><5>"),
        (TOKENS, "<3><301>"),
        (TOKENS, "<7><3>"),
        (TOKENS, "<-3><7>"),
        (TOKENS, "<3><" + "9" * 10_000 + ">"),
        (TEXT, "3 to 7"),
        (TEXT, "from 3 to 21 seconds"),
        (TEXT, "7.5 - 2.0 seconds"),
        (TEXT, "[2.0, 7.5]"),
        (TEXT, "1:02 - 1:07 seconds"),
        (TEXT, "nan - inf seconds"),
        (TEXT, "3 - " + "9" * 10_000 + " seconds"),
    ],
)
def test_what_names_no_span_of_the_video_is_refused_in_one_line(times, text):
    with pytest.raises(TimeParseError) as refused:
        times.parse_span(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet="from to frame 0123456789.-<>s", max_size=40))
@pytest.mark.parametrize("times", [NUMBERS, TOKENS, TEXT], ids=["numbers", "tokens", "text"])
def test_whatever_is_said_the_spans_lie_in_the_video_or_it_is_refused(times, text):
    try:
        spans = times.parse_spans(text)
    except TimeParseError:
        return
    assert spans
    assert all(0 <= start <= end <= 20 for start, end in spans)


@pytest.mark.parametrize("times", [NUMBERS, TOKENS, TEXT], ids=["numbers", "tokens", "text"])
def test_a_span_outside_the_video_is_not_written(times):
    for start, end in ((-1, 3), (3, 25), (7, 3), (float("nan"), 3)):
        with pytest.raises(ValueError, match=r"time of this video|ends after"):
            times.encode_span(start, end)


def test_highlights_are_read_with_their_scores():
    times = NumberFormat(np.arange(0, 200, 2.0))
    said = "Highlights: frames 80, 81, 83; scores 1.3, 5, 2.0."
    assert parse_highlights(said, times) == [(160.0, 1.3), (162.0, 5.0), (166.0, 2.0)]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "80, 81 frames",
        "The frames 80, 81. Their scores are 1.3.",
        "The frames 80, 80. Their scores are 1.3, 2.",
        "The frames 80, 81. Their scores are 1.3, 7.",
        "The frames 80, 100. Their scores are 1.3, 2.",
        "None. Their scores are .",
    ],
)
def test_highlights_without_matching_scores_are_refused(said):
    with pytest.raises(TimeParseError):
        parse_highlights(said, NumberFormat(np.arange(0, 200, 2.0)))


@pytest.mark.parametrize("arguments", [(0.0,), (-1.0,), (float("nan"),), (float("inf"),), (10.0, 0)])
def test_a_video_of_no_length_is_refused(arguments):
    for kind in (TokenFormat, TextFormat):
        with pytest.raises(ValueError, match=r"duration|bins"):
            kind(*arguments)
