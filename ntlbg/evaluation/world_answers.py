"""One video of the procedural world, looked at once; any number of choices of its groups, answered from in batches.

Every choice, whoever made it, is answered by the same model from the same features: only the choice differs.

Shapes: Q questions to one video, T groups, k chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ntlbg.data.questions import Question, oracle_groups
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.choosing import OURS, given_selection


# Ours, but asked something else: what is left of its lead comes from the video alone.
SHUFFLED = "ntlbg, other question"
ORACLE, EVERYTHING = "oracle", "all"

# Visual tokens of one batch: enough to keep a CPU busy, few enough for its memory.
TOKENS_PER_BATCH = 8192
LONGEST_ANSWER = 8  # tokens; the world's answers are one or two words


@dataclass
class Look:
    """
    A video as the model saw it, and the questions to it.

    Args:
        questions: Q of them.
        features: of all T groups.
        inputs: the processor's tensors of the Q prompts, without pixels.
        seconds: (T,) of each group's first picture.
        relevance: (Q, T) logits of the trained head.
        others: the query tokens of Q questions about other videos, which `SHUFFLED` chooses by; None: it is not asked.
    """

    questions: Sequence[Question]
    features: VideoFeatures
    inputs: dict[str, torch.Tensor]
    seconds: torch.Tensor
    relevance: torch.Tensor
    others: dict[str, torch.Tensor] | None = None


class WorldAnswerer:
    """An NTLBG checkpoint whose selector is trained, asked about videos of the procedural world."""

    def __init__(self, checkpoint: str):
        self.model = NTLBGForConditionalGeneration.from_pretrained(checkpoint).eval()
        self.processor = NTLBGProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def look(
        self, video: Any, questions: Sequence[Question], others: Sequence[str] | None = None, **sampling: float
    ) -> Look:
        """
        Decode and encode one video.

        Args:
            video: as the processor takes it.
            questions: to this video.
            others: as many questions, about other videos.
            sampling: `candidate_fps`, `max_candidates`; the processor's own where not given.
        """
        candidates = self.processor.video_processor.fetch(video, **sampling)[0]
        rows = [
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]}]
            for question in questions
        ]
        first = self.processor(rows[0], videos=[candidates])
        features = self.model.encode_video(**first)[0]
        options = {"padding": True, "text_kwargs": {"padding_side": "left"}}
        inputs = dict(self.processor(rows, videos=[[candidates] for _ in rows], **options))
        swapped = None
        if others is not None:
            swapped = _query(self.processor(rows, videos=[[candidates] for _ in rows], query=list(others), **options))
        del inputs["pixel_values_videos"]
        return Look(
            questions=questions,
            features=features,
            inputs=inputs,
            seconds=first["group_timestamps"],
            relevance=self.model.relevance_logits(features, **_query(inputs)),
            others=swapped,
        )

    @torch.no_grad()
    def choose(self, look: Look, selector: str, k: int, seed: int = 0) -> list[Selection]:
        """What a selector takes for each question: ours, a published rule (which sees the groups' descriptors and the
        trained relevance), `SHUFFLED`, `ORACLE` or `EVERYTHING`."""
        if selector in (OURS, SHUFFLED):
            query = _query(look.inputs) if selector == OURS else look.others
            chosen = self.model.select(
                video_features=[look.features] * len(look.questions),
                group_timestamps=look.seconds.repeat(len(look.questions)),
                num_representatives=k,
                **query,
            )
            return chosen if isinstance(chosen, list) else [chosen]
        if selector == ORACLE:
            groups = [oracle_groups(question, len(look.seconds), k) for question in look.questions]
            return [Selection.from_indices(torch.from_numpy(one), look.seconds) for one in groups]
        if selector == EVERYTHING:
            return [Selection.from_indices(torch.arange(len(look.seconds)), look.seconds) for _ in look.questions]
        descriptors = look.features.descriptors
        return [
            given_selection(selector, descriptors, look.seconds, k, relevance, seed=seed)
            for relevance in look.relevance
        ]

    @torch.no_grad()
    def answer(self, look: Look, asked: Sequence[tuple[int, Selection]]) -> list[str]:
        """
        Answers from choices.

        Args:
            asked: (number of the question, choice) pairs.

        Returns:
            as many texts, in that order.
        """
        texts: list[str] = [""] * len(asked)
        per_group = look.features.tokens.shape[1]
        # Rows of one batch are padded to the longest: those of one size go together.
        order = sorted(range(len(asked)), key=lambda place: len(asked[place][1]))
        while order:
            # The longest row of a batch is its last.
            size = 1
            while size < len(order) and (size + 1) * len(asked[order[size]][1]) * per_group <= TOKENS_PER_BATCH:
                size += 1
            places, order = order[:size], order[size:]
            rows = torch.tensor([asked[place][0] for place in places])
            inputs = {name: self._rows(look, name, value, rows) for name, value in look.inputs.items()}
            output = self.model.generate(
                **inputs,
                video_features=[look.features] * size,
                selection=[asked[place][1] for place in places],
                max_new_tokens=LONGEST_ANSWER,
                do_sample=False,
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            for place, text in zip(
                places, self.processor.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True
            ):
                texts[place] = text.strip()
        return texts

    @staticmethod
    def _rows(look: Look, name: str, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if name == "group_timestamps":
            return look.seconds.repeat(len(rows))
        return value[rows]


def _query(inputs: dict) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("query_input_ids", "query_attention_mask")}


__all__ = ["EVERYTHING", "ORACLE", "SHUFFLED", "Look", "WorldAnswerer"]
