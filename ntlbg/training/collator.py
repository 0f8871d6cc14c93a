"""From rows to a batch: messages as people write them, labels on the answer alone, evidence by group.

Shapes: B rows, L prompt tokens, Lq query tokens, V videos (one a row), T groups of a video.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from ntlbg.data.bad_rows import BadRows
from ntlbg.data.frozen_features import FrozenFeatures
from ntlbg.data.qa_records import BadRow, question_text, target_text, video_source
from ntlbg.errors import InputError, first_sentence
from ntlbg.grounding.tasks import Grounding
from ntlbg.grounding.time_formats import TimeFormat
from ntlbg.grounding.time_tokens import check_time_tokens


logger = logging.getLogger(__name__)

IGNORED_LABEL = -100


class NTLBGDataCollator:
    r"""
    Makes batches of the rows of `load_qa`: the video, then the question with its options as lettered lines; the answer
    (the letter where there are options) as the assistant's turn; the bare question as the query.

    A prompt is tokenised as it is for generation, and the answer is put behind it, so that training and generation see
    the same prompt, token by token. Subtitles of a row take no part.

    With `grounding` a row that asks when something happens gets the prompt and the answer of its task instead, with
    the times of the video's own candidates.

    A row whose video cannot be read is left out of its batch, told and counted (`bad_rows`); one beyond
    `max_bad_share` of the rows seen (as if at least 200 had been) ends the run. A batch is never empty: where no row
    is good, the last good one of this process or worker is given again (`bad_rows.repeated`); where there was none
    yet, the run ends.

    Args:
        processor (`NTLBGProcessor`): its sampling and sizes decide what is decoded.
        padding_side (`str`, *optional*, defaults to `"right"`): of the prompts; always the left for generation.
        max_bad_share (`float`, *optional*, defaults to 0): see above.
        features (`FrozenFeatures`, *optional*): what the vision tower has seen already; then nothing is decoded.
        generation (`bool`, *optional*, defaults to `False`): prompts without answers, for `model.generate`.
        grounding (`Grounding`, *optional*): how rows are asked for times.

    Raises:
        InputError: the chat template cannot be trained with, or an argument is out of range.
    """

    def __init__(
        self,
        processor,
        *,
        padding_side: str = "right",
        max_bad_share: float = 0.0,
        features: FrozenFeatures | None = None,
        generation: bool = False,
        grounding: Grounding | None = None,
    ):
        if padding_side not in ("left", "right"):
            raise InputError(f'padding_side is "left" or "right", got {padding_side!r}')
        self.processor, self.features, self.generation = processor, features, generation
        self.grounding = grounding
        self.padding_side = "left" if generation else padding_side
        self.bad_rows = BadRows(max_bad_share, "rows that were asked for")
        self._last_good: dict | None = None
        # A template or a tokenizer that cannot be trained with shows before the run.
        self._turn(self._prompt("?"), "?", "!")
        drawn = processor.video_processor.number_frames
        if grounding is not None and grounding.time_format == "numbers" and not drawn:
            logger.warning("The time format is 'numbers', but none are drawn on the frames; set `number_frames`")
        if grounding is not None and grounding.time_format == "tokens":
            check_time_tokens(processor.tokenizer, grounding.bins)

    def for_generation(self) -> NTLBGDataCollator:
        """The same for `model.generate`: prompts without answers, padded on the left, and the `rows` themselves."""
        return NTLBGDataCollator(
            self.processor,
            max_bad_share=self.bad_rows.max_share,
            features=self.features,
            generation=True,
            grounding=self.grounding,
        )

    def __call__(self, rows: Sequence[dict]) -> dict[str, Any]:
        r"""
        Args:
            rows: as `load_qa` gives them.

        Returns:
            `dict` of all that the processor returns for these rows, and

            - **labels** (`torch.LongTensor` of shape `(B, L)`): the answer and its end of turn, else -100; not for
              generation.
            - **group_evidence** (`torch.FloatTensor` of shape `(sum of T,)`): share of each group's time that lies in
              a span; NaN throughout a video whose row has no `spans`. Not for generation.
            - **video_features** (`list[VideoFeatures]`) instead of `pixel_values_videos`, with `features`.
            - **rows**: those of the batch, for generation only; to be taken out before `model.generate`.
            - **times** (`list[TimeFormat | None]`): how each row's answer tells times, None for an ordinary question;
              with `grounding` and for generation only; to be taken out as well.

        Raises:
            TooManyBadRows: see the class.
            InputError: no row is good, and none was before.
        """
        made = []
        for row in rows:
            try:
                made.append((row, self._one(row)))
            except BadRow as error:
                self.bad_rows.add_bad(f"{row.get('place', row['id'])}: {error}")
                continue
            self.bad_rows.add_good()
        if not made:
            if self._last_good is None:
                raise InputError(
                    f"none of the {len(rows)} rows of the first batch can be used, so there is nothing to train on; "
                    "see the warnings for the reasons"
                )
            made = [(self._last_good, self._one(self._last_good))]
            self.bad_rows.add_repeated()
        self._last_good = made[-1][0]
        return self._batch(made)

    # -- one row -------------------------------------------------------------------------------------------------

    def _one(self, row: dict) -> dict:
        """What the processor returns for one row, unpadded, with labels."""
        task = None if self.grounding is None else self.grounding.task_of(row)
        question = question_text(row) if task is None else self.grounding.prompt(task, row)
        self._check_text(question)
        prompt = self._prompt(question)
        if self.features is None:
            inputs = self._decoded(row, prompt)
        else:
            inputs = self.features.inputs(row, prompt)
        times = self._times(row, task, inputs.pop("video_metadata"))
        ids, target = _row_of(inputs["input_ids"]), []
        if not self.generation:
            answer = target_text(row) if task is None else self.grounding.target(task, row, times)
            self._check_text(answer)
            turn = self._turn(prompt, question, answer)
            target = self.processor.tokenizer(turn, add_special_tokens=False)["input_ids"]
        inputs["input_ids"] = torch.tensor(ids + target)
        inputs["attention_mask"] = torch.ones(len(ids) + len(target), dtype=torch.long)
        inputs["mm_token_type_ids"] = torch.tensor(_row_of(inputs["mm_token_type_ids"]) + [0] * len(target))
        inputs["query_input_ids"] = torch.tensor(_row_of(inputs["query_input_ids"]))
        inputs["query_attention_mask"] = torch.tensor(_row_of(inputs["query_attention_mask"]))
        if not self.generation:
            inputs["labels"] = torch.tensor([IGNORED_LABEL] * len(ids) + target)
            inputs["group_evidence"] = group_evidence(row, inputs["group_timestamps"])
        elif self.grounding is not None:
            inputs["times"] = times
        return inputs

    def _decoded(self, row: dict, prompt: str) -> dict:
        try:
            inputs = self.processor(
                text=[prompt], videos=[video_source(row)], query=[row["question"]], return_metadata=True
            )
            return dict(inputs)
        except ValueError as error:
            # The decoder's own error, or that of the base's video processor for a picture it cannot resize.
            raise BadRow(first_sentence(error)) from error

    def _times(self, row: dict, task: str | None, metadata: list) -> TimeFormat | None:
        """How the times of the row's video are written, if it is asked for any."""
        if task is None:
            return None
        step = self.processor.video_processor.temporal_patch_size
        return self.grounding.times(row["duration"], metadata[0].frame_timestamps, step)

    def _check_text(self, text: str) -> None:
        tokens = [token for token in self.processor.tokenizer.all_special_tokens if token in text]
        if tokens:
            raise BadRow(f"its text holds {tokens[0]!r}, which the model reads as a sign of its own; take it out")

    def _prompt(self, question: str) -> str:
        return self.processor.apply_chat_template([_user_turn(question)], add_generation_prompt=True)

    def _turn(self, prompt: str, question: str, answer: str) -> str:
        """What follows the prompt: the answer with its end of turn."""
        messages = [_user_turn(question), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        whole = self.processor.apply_chat_template(messages)
        # LLaVA-OneVision's own template writes a space more before an answer than for generation.
        words = re.match(r"\s+".join(re.escape(word) for word in prompt.split()), whole)
        start = whole.find(answer, words.end()) if words else -1
        turn = whole[start:].rstrip()
        if start < 0 or whole[words.end() : start].strip():
            raise InputError(
                "the chat template writes another prompt before an answer than for generation, so the answer cannot "
                f"be told apart: generation begins with {prompt[-40:]!r}, but the answered conversation has "
                f"{whole[max(0, len(prompt) - 40) :][:80]!r}; give a template whose generation prompt stays"
            )
        if turn == answer:
            raise InputError(
                "the chat template writes nothing after an answer, so the model could not learn where to stop; give a "
                "template that ends each turn with the end-of-turn token"
            )
        return turn

    # -- the batch -----------------------------------------------------------------------------------------------

    def _batch(self, made: list[tuple[dict, dict]]) -> dict[str, Any]:
        parts = [inputs for _, inputs in made]
        pad = self.processor.tokenizer.pad_token_id
        fills = {"input_ids": pad, "attention_mask": 0, "mm_token_type_ids": 0, "labels": IGNORED_LABEL}
        batch: dict[str, Any] = {
            name: _padded([part[name] for part in parts], fill, self.padding_side)
            for name, fill in fills.items()
            if name in parts[0]
        }
        for name, fill in (("query_input_ids", pad), ("query_attention_mask", 0)):
            batch[name] = _padded([part[name] for part in parts], fill, "right")
        for name in parts[0]:
            if name in ("video_features", "times"):
                batch[name] = [part[name] for part in parts]
            elif name not in batch:
                batch[name] = torch.cat([torch.as_tensor(part[name]) for part in parts])
        if self.generation:
            batch["rows"] = [row for row, _ in made]
        return batch


def group_evidence(row: dict, group_timestamps: torch.Tensor) -> torch.Tensor:
    """
    How much of each group's time is evidence.

    A group lasts from its first picture to the next group's, the last one to the end of the clip or the video.

    Args:
        row: with `spans` [[start, end]] in seconds of the whole video, which may overlap; or without.
        group_timestamps: (T,) seconds.

    Returns:
        `torch.FloatTensor` of shape `(T,)` in [0, 1]; NaN without `spans`.
    """
    if "spans" not in row:
        return torch.full((len(group_timestamps),), math.nan)
    starts = group_timestamps.double()
    end = row["clip"][1] if "clip" in row else row["duration"]
    # A duration that is told too short: then the last group is as long as the one before it.
    usual = float(starts[-1] - starts[-2]) if len(starts) > 1 else 1.0
    last = float(starts[-1])
    ends = torch.cat([starts[1:], starts.new_tensor([end if end > last else last + usual])])
    shown = torch.zeros_like(starts)
    for start, stop in _merged(row["spans"]):
        shown += (ends.clamp(max=stop) - starts.clamp(min=start)).clamp(min=0)
    return (shown / (ends - starts)).clamp(max=1).float()


def _merged(spans: list[list[float]]) -> list[list[float]]:
    merged: list[list[float]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return merged


def _user_turn(question: str) -> dict:
    return {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}


def _row_of(values) -> list[int]:
    """The one row of what a processor gives for one prompt."""
    return list(values[0])


def _padded(rows: list[torch.Tensor], fill: int, side: str) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side)


__all__ = ["IGNORED_LABEL", "NTLBGDataCollator", "group_evidence"]
