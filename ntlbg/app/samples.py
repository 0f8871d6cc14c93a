"""Two ten-minute videos of the procedural world with their questions, rendered where they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ntlbg.data.world_dataset import demo_video
from ntlbg.data.world_video import write_video


# Of the test split: nothing that ntlbg-tiny was trained on.
SEEDS = (0, 1)
_QUESTIONS = 3


@dataclass(frozen=True)
class Sample:
    """A video file, questions about it, and the right answer to each."""

    path: Path
    questions: list[str]
    answers: list[str]


def render_samples(folder: Path) -> list[Sample]:
    """Write them into `folder`, unless they are there; one question of each of three kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number, seed in enumerate(SEEDS, start=1):
        spec, questions = demo_video(seed)
        path = folder / f"sample-{number}.mp4"
        if not path.exists():
            part = path.with_suffix(".part")
            write_video(spec, part)
            part.replace(path)
        kinds = {question.kind: question for question in reversed(questions)}
        asked = [kinds[kind] for kind in ("order", "count", "retrieve")][:_QUESTIONS]
        samples.append(Sample(path, [q.text for q in asked], [q.answer for q in asked]))
    return samples
