"""A run's checkpoints: which one to go on from."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.utils import logging

from ntlbg.errors import InputError


logger = logging.get_logger(__name__)


def last_checkpoint(folder: str | Path) -> str | None:
    """The last checkpoint in `folder` that is complete; one that a kill cut off is told and passed over."""
    found = [(int(path.name.rsplit("-", 1)[1]), path) for path in Path(folder).glob("checkpoint-*[0-9]")]
    for _, path in sorted(found, reverse=True):
        if is_complete(path):
            return str(path)
        logger.warning(f"The checkpoint {str(path)!r} was cut off while it was written, and is passed over.")
    return None


def is_complete(folder: Path) -> bool:
    """Whether all of a checkpoint was written: the Trainer's state comes last."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def checkpoint_to_resume(asked: str | None, folder: str | Path) -> str | None:
    r"""
    Where a run goes on: from `asked`, or, where that is None or "auto", from its last checkpoint, if it has one.

    Raises:
        InputError: `asked` is no complete checkpoint.
    """
    if asked is None or asked in ("auto", "True", "true"):
        return last_checkpoint(folder)
    if not is_complete(Path(asked)):
        raise InputError(
            f"`resume_from_checkpoint` is {asked!r}, but that is no complete checkpoint; give a folder checkpoint-N "
            "of a run, or leave it out to go on from the last one in `output_dir`"
        )
    return asked


__all__ = ["checkpoint_to_resume", "is_complete", "last_checkpoint"]
