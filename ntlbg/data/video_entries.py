"""One encoded video as a safetensors file: what the language model reads of it, and what the prompt says of it.

Shapes: N candidate frames, T groups, n visual tokens per group, D width.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ntlbg.fingerprints import hash_of, tensor_digest
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.processors.video_source_ntlbg import CandidateFrames


ABANDONED_SECONDS = 3600.0

# Fields of `CandidateFrames` that are no arrays.
_FACTS = ("fps", "total_num_frames", "duration", "height", "width", "name", "warnings")


class DamagedEntry(Exception):
    """A file that cannot be trusted; the message completes "it ..."."""


@dataclass(frozen=True, eq=False)
class VideoEntry:
    """
    One video after the vision tower.

    Args:
        features (`VideoFeatures`): tokens (T, n, D) and what goes to inner layers.
        grid (`torch.LongTensor` of shape `(3,)`): T, h, w in patches.
        indices, timestamps (`torch.Tensor` of shape `(N,)`): picture numbers, and seconds in float64.
        facts (`dict`): the other fields of the `CandidateFrames` that were encoded.
    """

    features: VideoFeatures
    grid: torch.Tensor
    indices: torch.Tensor
    timestamps: torch.Tensor
    facts: dict[str, Any]

    @classmethod
    def of(cls, candidates: CandidateFrames, features: VideoFeatures, grid: torch.Tensor) -> VideoEntry:
        """The entry of these frames."""
        return cls(
            features,
            grid,
            torch.from_numpy(candidates.indices),
            torch.from_numpy(candidates.timestamps),
            {name: getattr(candidates, name) for name in _FACTS},
        )

    def blank(self, per_group: int, patch_size: int) -> CandidateFrames:
        """The frames as they were, but for the pictures: one black group at the size that the tower saw."""
        height, width = (int(patches) * patch_size for patches in self.grid[1:])
        frames = torch.zeros(per_group, height, width, 3, dtype=torch.uint8).numpy()
        return CandidateFrames(
            frames=frames, timestamps=self.timestamps.numpy(), indices=self.indices.numpy(), **self.facts
        )


def write_entry(path: Path, key: str, entry: VideoEntry) -> None:
    """Put the entry at `path`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {
        "tokens": entry.features.tokens,
        "grid": entry.grid,
        "indices": entry.indices,
        "timestamps": entry.timestamps,
        **{f"deepstack.{number}": layer for number, layer in enumerate(entry.features.deepstack)},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = {
        "key": key,
        "facts": entry.facts,
        "checksums": {name: tensor_digest(tensor) for name, tensor in tensors.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # One item, since their order in the file is left to chance.
    metadata = {"ntlbg": json.dumps({"told": told, "checksum": hash_of(told)})}
    _put(path, lambda part: save_file(tensors, part, metadata))


def write_text(path: Path, text: str) -> None:
    """Put a small text at `path`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path, lambda part: part.write_text(text))


def remove_abandoned(folder: Path) -> None:
    """Remove what writers left that were killed; those that live write at least once in `ABANDONED_SECONDS`."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
                part.unlink()


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except SafetensorError as error:
        # safetensors tells a full disk in a type of its own.
        raise OSError(str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def read_entry(path: Path, key: str) -> VideoEntry:
    """
    The entry at `path`, every tensor checked.

    Raises:
        FileNotFoundError: there is none.
        DamagedEntry: it is not what was written under this key.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(metadata["ntlbg"])
        told, checksum = metadata["told"], metadata["checksum"]
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedEntry("cannot be read as an entry") from error
    if hash_of(told) != checksum or told["key"] != key:
        raise DamagedEntry("was made for something else")
    if {name: tensor_digest(tensor) for name, tensor in tensors.items()} != told["checksums"]:
        raise DamagedEntry("has a wrong checksum")
    layers = [tensors[f"deepstack.{number}"] for number in range(len(tensors) - 4)]
    features = VideoFeatures(tensors["tokens"], layers)
    return VideoEntry(features, tensors["grid"], tensors["indices"], tensors["timestamps"], told["facts"])


__all__ = ["DamagedEntry", "VideoEntry", "read_entry", "remove_abandoned", "write_entry", "write_text"]
