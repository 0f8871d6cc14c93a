"""What a model's answers about time are worth, one row at a time, in sums that processes can add up.

Moments and the evidence of grounded answers are scored as by `span_scores` (the first span that is named), highlights
as by `highlight_scores`. An answer that cannot be read scores 0 everywhere and is counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ntlbg.evaluation.highlight_scores import highlight_scores
from ntlbg.evaluation.span_scores import grounding_scores
from ntlbg.grounding.tasks import GroundedText, clip_saliency
from ntlbg.training.answer_scoring import AnswerScores, score_answer


_OF_SPANS = ("miou", "r1@0.3", "r1@0.5", "r1@0.7")
_OF_HIGHLIGHTS = tuple(
    f"{name}_{level}" for name in ("hit1", "saliency_map") for level in ("fair", "good", "very_good")
)
_COUNTS = ("grounded", "parse_failures", "with_spans", "with_saliency")
_NAMES = (*_COUNTS, *_OF_SPANS, *_OF_HIGHLIGHTS)


@dataclass
class GroundingScores:
    """Sums over grounded answers; add several with `+`."""

    counts: Counter = field(default_factory=Counter)

    def __add__(self, other: GroundingScores) -> GroundingScores:
        return GroundingScores(self.counts + other.counts)

    def sums(self) -> list[float]:
        """All sums, in one order, so that those of several processes can be added."""
        return [float(self.counts[name]) for name in _NAMES]

    @classmethod
    def of_sums(cls, sums: list[float]) -> GroundingScores:
        """The scores whose `sums` these are."""
        return cls(Counter(dict(zip(_NAMES, sums, strict=True))))

    def metrics(self) -> dict[str, float]:
        """`grounded` (rows that asked for times) and `parse_failures`; of rows with spans `miou`, `r1@0.3`, `r1@0.5`,
        `r1@0.7`, of rows with saliency `hit1_<level>` and `saliency_map_<level>`; empty where none asked."""
        if not self.counts["grounded"]:
            return {}
        metrics = {name: int(self.counts[name]) for name in ("grounded", "parse_failures")}
        for names, rows in ((_OF_SPANS, "with_spans"), (_OF_HIGHLIGHTS, "with_saliency")):
            if self.counts[rows]:
                metrics |= {name: self.counts[name] / self.counts[rows] for name in names}
        return metrics


def score_grounded(task: str, said: GroundedText | None, row: dict) -> tuple[GroundingScores, AnswerScores]:
    """
    Args:
        task: what the row asked.
        said: see `tasks.read_grounded`; None for what could not be read.
        row: with the truth: `spans`, `saliency`, `answer`. What it lacks is not scored; captions' words are not.

    Returns:
        the times' scores, and of a grounded answer those of its words.
    """
    counts = Counter(grounded=1, parse_failures=int(said is None))
    words = AnswerScores()
    if task == "highlights":
        if row.get("saliency"):
            curve = [] if said is None else saliency_of(said, row)
            scores = highlight_scores([{"saliency": curve}], [row])
            counts.update(with_saliency=1, **{name: scores[name] for name in _OF_HIGHLIGHTS})
    elif task in ("moment", "grounded_answer") and row.get("spans"):
        first = None if said is None or not said.spans else list(said.spans[0])
        scores = grounding_scores([first], [row["spans"]])
        counts.update(with_spans=1, **{name: scores[name] for name in _OF_SPANS})
    if task == "grounded_answer":
        words = score_answer("" if said is None else said.answer, row)
    return GroundingScores(counts), words


def saliency_of(said: GroundedText, row: dict) -> list[float]:
    """The score of each of a row's clips, as `highlight_scores` takes it; the row has `saliency`."""
    return clip_saliency(said.highlights, row["duration"], row["saliency"]["clip_len"])


__all__ = ["GroundingScores", "saliency_of", "score_grounded"]
