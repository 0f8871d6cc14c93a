"""What the tests of the feature cache share: what lies in its folder, and whether two looks saw the same."""

import dataclasses
from pathlib import Path

import numpy as np
import torch


def entries(folder: Path) -> dict[str, int]:
    """Names and inodes: every write makes a new inode, so an unchanged one was read and not written."""
    return {path.name: path.lstat().st_ino for path in folder.iterdir()} if folder.exists() else {}


def entry_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def assert_same(first, second):
    """Equal to the bit, in every field that is not the source itself."""
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            one, other = one.numpy(), other.numpy()
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()
        elif field.name != "source":
            assert one == other
