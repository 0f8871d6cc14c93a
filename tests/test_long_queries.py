"""A question longer than the encoder reads is read in parts, and no part of it is lost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import _tokenizer as tokenizer
from tiny_encoders import save_encoder, scenes

from ntlbg.evaluation.descriptor_worlds import CUES, needle, unit
from ntlbg.modeling_ntlbg.curves_ntlbg import robust_scores
from ntlbg.modeling_ntlbg.scorer_ntlbg import pieces_notes, relevance_to
from ntlbg.processors.dual_encoder_ntlbg import MAX_PIECES, text_inputs, text_pieces
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.encoders import DualEncoder, EncoderError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return DualEncoder.load(str(save_encoder("siglip", tmp_path_factory.mktemp("encoder"))), "cpu")


TOKENIZER = tokenizer(16)


def tokens(text: str) -> int:
    return len(TOKENIZER(text)["input_ids"])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab .,;?!\n\t…。，车é😀-", max_size=200))
def test_the_parts_hold_every_character_in_order_and_each_fits(text):
    pieces = text_pieces(TOKENIZER, text, 16)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(tokens(piece) <= 16 for piece in pieces)
    assert len(pieces) == 1 or all(piece.strip() for piece in pieces)


def test_a_text_that_fits_stays_as_it_is():
    for text in ("", " where? ", "a. b. c."):
        assert text_pieces(TOKENIZER, text, 16) == [text]


def test_parts_end_at_sentences_else_at_clauses_else_at_words_near_the_middle():
    sentences = "who is it? it is 3.50. or is it he?"
    assert text_pieces(TOKENIZER, sentences, tokens(sentences) - 1) == ["who is it? it is 3.50.", "or is it he?"]
    clauses = "where the car is, and who is in it, a man"
    assert text_pieces(TOKENIZER, clauses, tokens(clauses) - 1) == ["where the car is,", "and who is in it, a man"]
    words = "is the red car where the man is"
    assert text_pieces(TOKENIZER, words, tokens(words) - 1) == ["is the red car", "where the man is"]
    assert text_pieces(TOKENIZER, "车。在哪里？", tokens("车。在哪里？") - 1) == ["车。", "在哪里？"]
    assert text_pieces(TOKENIZER, "abcdefgh", 4) == ["abcd", "efgh"]


def test_a_text_beyond_all_measure_is_refused_with_its_length(encoder):
    assert len(text_pieces(TOKENIZER, "ab " * 5 * MAX_PIECES, 16)) > MAX_PIECES // 2
    with pytest.raises(EncoderError, match=r"the question has \d+ tokens, more than 64 times the 64 .* shorten it"):
        encoder.encode_text("zq " * 64 * 64)
    with pytest.raises(ValueError, match="too few for"):
        text_pieces(TOKENIZER, "😀", 1)


def test_a_long_question_is_judged_by_the_best_of_its_parts_and_says_so(encoder):
    video, parts = scenes(), ["where is the red car, " * 3 + "and when?", "who drives it home, " * 2 + "and why?"]
    long = " ".join(parts)
    read = text_inputs(encoder.processor, long)["input_ids"]
    assert len(read) == 2
    selector = FrameSelector(encoder)
    selections = [selector.select(video, text, 5) for text in (long, *parts)]
    best = np.maximum(selections[1].relevance, selections[2].relevance)
    assert selections[0].relevance == pytest.approx(best, abs=1e-5)
    assert pieces_notes(2)[0] in selections[0].warnings
    assert not set(pieces_notes(2)) & {*selections[1].warnings, *selections[2].warnings}


def test_evidence_that_only_the_last_part_names_stands_highest_by_the_best_part_and_no_other_rule():
    highest = {"best": 0, "robust": 0, "mean": 0, "first": 0}
    for seed in range(24):
        video, rng = needle(seed), np.random.default_rng(seed)
        frames, asked = torch.from_numpy(video.frames), video.queries["medium"]
        offset = unit(video.frames.mean(axis=0))
        others = [unit(offset + CUES["medium"] * unit(rng.normal(size=len(asked)))) for _ in range(3)]
        parts = torch.from_numpy(np.stack([*others, asked]))
        alone = torch.stack([relevance_to(frames, part) for part in parts])
        curves = {
            "best": relevance_to(frames, parts),
            "robust": torch.stack([robust_scores(curve, torch.ones(len(curve))) for curve in alone]).amax(dim=0),
            "mean": alone.mean(dim=0),
            "first": alone[0],
        }
        for rule, curve in curves.items():
            highest[rule] += int(curve.argmax()) in video.evidence
    assert highest == {"best": 14, "robust": 5, "mean": 1, "first": 0}
