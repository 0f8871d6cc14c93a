"""What an answer is, whichever model gives it: its evidence, its timings, and why it may fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np

from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.selection.features import FrameSelection
from ntlbg.selection.subtitles import Cue


class ModelError(InputError):
    """A model cannot be had or cannot do what is asked; one sentence: what is wrong, what came, how to fix it."""


@dataclass
class Answer:
    """One answer with the evidence it was given from.

    Args:
        question: as asked.
        text: the model's answer.
        selection: the groups (`Selection`) or frames (`FrameSelection`) it was given from.
        frames: one picture per representative, uint8 (H, W, 3), its first one where groups were chosen.
        num_frames: pictures the model saw (a group holds `temporal_patch_size` of them).
        timings: seconds per stage.
        spoken: what is said at each representative, if there are subtitles.
    """

    question: str
    text: str
    selection: Selection | FrameSelection
    frames: list[np.ndarray]
    num_frames: int
    timings: dict[str, float] = field(default_factory=dict)
    spoken: list[list[Cue]] | None = None

    @property
    def num_groups(self) -> int:
        """Groups in time the model saw."""
        return len(self.frames)

    @property
    def notes(self) -> list[str]:
        """What the reader should know of the choice."""
        return list(self.selection.warnings if isinstance(self.selection, FrameSelection) else self.selection.notes)

    def to_dict(self) -> dict:
        """Everything but the pictures, ready for JSON."""
        return {
            "question": self.question,
            "answer": self.text,
            "num_groups": self.num_groups,
            "num_frames": self.num_frames,
            "timings": self.timings,
            "selection": self.selection.to_dict(),
            "spoken": None if self.spoken is None else [[asdict(cue) for cue in cues] for cues in self.spoken],
        }


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Keep the seconds that a stage takes."""
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start


def check_question(question: str) -> None:
    """Raises `ModelError` where nothing is asked."""
    if not question.strip():
        raise ModelError("the question is empty; ask something")
