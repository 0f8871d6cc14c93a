"""What was chosen from one video, and why: the object handed between the two looks, the answer and the report."""

import dataclasses
from dataclasses import dataclass, field

import torch


_INT_TENSORS = ("indices", "cells", "frames_indices")
_FLOAT_TENSORS = (
    "timestamps",
    "weights",
    "group_timestamps",
    "relevance",
    "mahalanobis",
    "context",
    "moment_spans",
    "moment_confidences",
    "saliency",
)


@dataclass(eq=False)
class Selection:
    r"""
    The k groups chosen from the T groups of one video.

    Args:
        indices (`torch.LongTensor` of shape `(k,)`): chosen groups, distinct, in temporal order.
        timestamps (`torch.FloatTensor` of shape `(k,)`): seconds of each chosen group's first picture.
        weights (`torch.FloatTensor` of shape `(k,)`): share of the video's time each stands for; sums to 1.
        strata (`list[str]` of length k): why each was taken: `"relevance"`, `"novelty"` or `"coverage"`, or `"given"`.
        num_groups (`int`): T.
        group_timestamps (`torch.FloatTensor` of shape `(T,)`): seconds of every group's first picture.
        mahalanobis (`torch.FloatTensor` of shape `(T,)`): squared Mahalanobis distance of every group.
        cells (`torch.LongTensor` of shape `(T,)`): position (0..k-1) of the representative that stands for each group.
        relevance (`torch.FloatTensor` of shape `(T,)`, *optional*): relevance to the query, `None` when none was used.
        context (`torch.FloatTensor` of shape `(k, context_size)`, *optional*): c_i of the rich points.
        shell (`float`): c*, the squared radius of the optimal codebook.
        spread (`float`): Var(m)/mean(m)^2 of the squared distances m of the chosen groups.
        temporal_patch_size (`int`): candidate frames per group.
        frames_indices (`torch.LongTensor` of shape `(N,)`, *optional*): picture numbers of all candidates in their
            file.
        query (`str`, *optional*): the question the choice was made for.
        moment_spans (`torch.FloatTensor` of shape `(P, 2)`, *optional*): of a span head: start and end, in seconds, of
            each moment found, the surest first.
        moment_confidences (`torch.FloatTensor` of shape `(P,)`, *optional*): in [0, 1]; trained to be the IoU that the
            moment reaches.
        saliency (`torch.FloatTensor` of shape `(T,)`, *optional*): of a span head: how likely each group shows what
            was asked for.
        notes (`list[str]`): what the reader should know, e.g. that relevance was not used and why.
    """

    indices: torch.Tensor
    timestamps: torch.Tensor
    weights: torch.Tensor
    strata: list[str]
    num_groups: int
    group_timestamps: torch.Tensor
    mahalanobis: torch.Tensor
    cells: torch.Tensor
    relevance: torch.Tensor | None = None
    context: torch.Tensor | None = None
    shell: float = 0.0
    spread: float = 0.0
    temporal_patch_size: int = 2
    frames_indices: torch.Tensor | None = None
    query: str | None = None
    moment_spans: torch.Tensor | None = None
    moment_confidences: torch.Tensor | None = None
    saliency: torch.Tensor | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_indices(cls, indices, group_timestamps, *, stratum: str = "given", temporal_patch_size: int = 2):
        r"""
        A selection made elsewhere (uniform sampling, another selector, a person), to be answered from as it is.

        Each group is represented by the chosen one nearest in time.

        Args:
            indices (`torch.LongTensor` of shape `(k,)`): chosen groups, in any order.
            group_timestamps (`torch.FloatTensor` of shape `(T,)`): seconds of every group's first picture.

        Raises:
            ValueError: an index is repeated or lies outside 0..T-1, or there is none.
        """
        seconds = torch.as_tensor(group_timestamps, dtype=torch.float32)
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=seconds.device)
        if chosen.ndim != 1 or len(chosen) == 0 or len(chosen.unique()) != len(chosen):
            raise ValueError(
                f"`indices` should be distinct group numbers, at least one, but they are {chosen.tolist()}."
            )
        if chosen.min() < 0 or chosen.max() >= len(seconds):
            raise ValueError(f"`indices` should lie in 0..{len(seconds) - 1}, but they are {chosen.tolist()}.")
        chosen = chosen.sort().values
        steps = torch.arange(len(seconds), device=seconds.device)
        cells = (steps[:, None] - chosen[None]).abs().argmin(dim=1)
        return cls(
            indices=chosen,
            timestamps=seconds[chosen],
            weights=torch.bincount(cells, minlength=len(chosen)).float() / len(seconds),
            strata=[stratum] * len(chosen),
            num_groups=len(seconds),
            group_timestamps=seconds,
            mahalanobis=torch.zeros_like(seconds),
            cells=cells,
            temporal_patch_size=temporal_patch_size,
        )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def candidate_indices(self) -> torch.Tensor:
        """`torch.LongTensor` of shape `(k * temporal_patch_size,)`: the chosen groups' frames among the candidates.

        The last group of an odd number of candidates repeats its last frame, as the base's processor does.
        """
        steps = torch.arange(self.temporal_patch_size, device=self.indices.device)
        frames = (self.indices[:, None] * self.temporal_patch_size + steps).flatten()
        if self.frames_indices is not None:
            frames = frames.clamp(max=len(self.frames_indices) - 1)
        return frames

    def to(self, device) -> "Selection":
        """The same selection with its tensors on `device`."""
        tensors = {
            name: value.to(device)
            for name in _INT_TENSORS + _FLOAT_TENSORS
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **tensors)

    def to_dict(self) -> dict:
        """A dictionary of plain numbers, strings and lists that `json` can write."""
        result = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            result[item.name] = value.tolist() if isinstance(value, torch.Tensor) else value
        return result

    @classmethod
    def from_dict(cls, values: dict) -> "Selection":
        """The inverse of [`~Selection.to_dict`].

        Raises:
            ValueError: a field is missing or unknown.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        required = {
            item.name
            for item in dataclasses.fields(cls)
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        }
        if unknown := set(values) - known:
            raise ValueError(f"A selection has no field {sorted(unknown)}; its fields are {sorted(known)}.")
        if missing := required - set(values):
            raise ValueError(f"A selection needs the fields {sorted(missing)}, which are missing.")
        values = dict(values)
        for names, dtype in ((_INT_TENSORS, torch.int64), (_FLOAT_TENSORS, torch.float32)):
            for name in names:
                if values.get(name) is not None:
                    values[name] = torch.as_tensor(values[name], dtype=dtype)
        return cls(**values)


__all__ = ["Selection"]
