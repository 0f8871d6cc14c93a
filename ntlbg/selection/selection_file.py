"""A frame selection as JSON: written whole, and believed only after every field was checked.

Shapes: N candidates, k chosen frames.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.strata_ntlbg import STRATA


FORMAT = 2

# A selection of a thousand candidates takes about 100 kB.
MAX_BYTES = 64 * 2**20

# Integers that are exact in JSON as most programs read it.
_LARGEST = 2**53

# Arrays by what they count; all others are single values.
INTEGERS = {"indices": "k", "positions": "k", "candidate_indices": "N", "cells": "N"}
NUMBERS = {"seconds": "k", "weights": "k", "candidate_seconds": "N", "mahalanobis": "N", "relevance": "N"}
_COUNTS = ("requested_k", "total_num_frames", "height", "width")
_QUANTITIES = ("fps", "duration")
_TEXTS = ("query", "encoder", "name")
_NAMES = (*STRATA, "given")
FIELDS = {*INTEGERS, *NUMBERS, *_COUNTS, *_QUANTITIES, *_TEXTS, "clip", "strata", "warnings"}
# Written beside the fields: what follows from them, and what the commands add.
_BESIDE = {"stands_for", "spoken", "timings"}


class SelectionError(InputError):
    """What was given is no frame selection, or not one of this video; one sentence: what is wrong, what came."""


def read_json(path: str | Path) -> Any:
    """The content of a JSON file of at most `MAX_BYTES`.

    Raises:
        SelectionError: it cannot be read, is too large, or is no JSON.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SelectionError(f"the selection {str(path)!r} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise SelectionError(f"{str(path)!r} has more than {MAX_BYTES // 2**20} MiB: it is no frame selection")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SelectionError(f"{str(path)!r} is no JSON ({error}); write one with FrameSelection.save") from error


def checked_fields(described: Any) -> dict[str, Any]:
    """The fields of a `FrameSelection` from what `to_dict` gave and JSON may have carried.

    Raises:
        SelectionError: a field is missing, unknown, of another type, not finite, or contradicts another.
    """
    if not isinstance(described, dict):
        raise SelectionError(f"a frame selection is a JSON object, got {_short(described)}; select again")
    if described.get("format") != FORMAT:
        raise SelectionError(
            f"a frame selection of format {FORMAT} is expected, got {_short(described.get('format'))}; select again"
        )
    fields = {name: value for name, value in described.items() if name not in _BESIDE | {"format"}}
    if set(fields) != FIELDS:
        raise SelectionError(
            f"not a frame selection: missing {_short(sorted(FIELDS - set(fields)))}, "
            f"unknown {_short(sorted(set(fields) - FIELDS, key=str))}"
        )
    for name in INTEGERS:
        fields[name] = _array(name, fields[name], np.int64)
    for name in NUMBERS:
        if name != "relevance" or fields[name] is not None:
            fields[name] = _array(name, fields[name], np.float64)
    for name in _COUNTS:
        if not _is_integer(fields[name]) or fields[name] < 1:
            raise _wrong(name, "a whole number of at least 1", fields[name])
    for name in _QUANTITIES:
        if not _is_number(fields[name]) or fields[name] < 0:
            raise _wrong(name, "a finite number of at least 0", fields[name])
    for name in _TEXTS:
        if not isinstance(fields[name], str) and (name == "name" or fields[name] is not None):
            raise _wrong(name, "text", fields[name])
    warnings = fields["warnings"]
    if not isinstance(warnings, list) or not all(isinstance(warning, str) for warning in warnings):
        raise _wrong("warnings", "a list of sentences", warnings)
    if fields["clip"] is not None:
        clip = _array("clip", fields["clip"], np.float64)
        if len(clip) != 2 or not 0 <= clip[0] <= clip[1]:
            raise _wrong("clip", "two times in order, from 0 on", clip.tolist())
        fields["clip"] = (float(clip[0]), float(clip[1]))
    _check_together(fields)
    return fields


def _check_together(fields: dict[str, Any]) -> None:
    k, count = len(fields["indices"]), len(fields["candidate_indices"])
    if not 1 <= k <= min(count, fields["requested_k"]):
        raise _wrong("indices", f"1 to {min(count, fields['requested_k'])} frames", f"{k} of {count} candidates")
    for names in (INTEGERS, NUMBERS):
        for name, counts in names.items():
            expected = k if counts == "k" else count
            if fields[name] is not None and len(fields[name]) != expected:
                raise _wrong(name, f"{expected} values", f"{len(fields[name])}")
    strata = fields["strata"]
    if not isinstance(strata, list) or len(strata) != k or not all(stratum in _NAMES for stratum in strata):
        raise _wrong("strata", f"{k} of the names {', '.join(_NAMES)}", strata)
    for name, bound in (("candidate_indices", fields["total_num_frames"]), ("positions", count)):
        values = fields[name]
        if values[0] < 0 or values[-1] >= bound or (np.diff(values) <= 0).any():
            raise _wrong(name, f"rising numbers within 0..{bound - 1}", values.tolist())
    seconds = fields["candidate_seconds"]
    if seconds[0] < 0 or (np.diff(seconds) < 0).any():
        raise _wrong("candidate_seconds", "times from 0 on, in order", seconds.tolist())
    if (clip := fields["clip"]) is not None and not clip[0] - 1e-3 <= seconds[0] <= seconds[-1] <= clip[1] + 1e-3:
        raise _wrong("clip", "two times around all candidates", list(clip))
    for name, of in (("indices", "candidate_indices"), ("seconds", "candidate_seconds")):
        if (fields[name] != fields[of][fields["positions"]]).any():
            raise _wrong(name, f"those that `positions` names among `{of}`", fields[name].tolist())
    cells = fields["cells"]
    if cells.min() < 0 or cells.max() >= k or (cells[fields["positions"]] != np.arange(k)).any():
        raise _wrong("cells", f"numbers within 0..{k - 1} that give each chosen frame its own", cells.tolist())
    weights = fields["weights"]
    if weights.min() < 0 or abs(weights.sum() - 1) > 1e-3:
        raise _wrong("weights", "shares that sum to 1", weights.tolist())


def _array(name: str, values: Any, dtype: type) -> np.ndarray:
    right = _is_integer if dtype is np.int64 else _is_number
    if not isinstance(values, list) or not all(right(value) for value in values):
        raise _wrong(name, f"a list of {'whole' if dtype is np.int64 else 'finite'} numbers", values)
    return np.array(values, dtype=dtype)


def _is_integer(value: Any) -> bool:
    return type(value) is int and abs(value) < _LARGEST


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (type(value) is float and math.isfinite(value))


def _wrong(name: str, expected: str, got: Any) -> SelectionError:
    return SelectionError(f"not a frame selection: `{name}` should be {expected}, got {_short(got)}; select again")


def _short(value: Any) -> str:
    # Integers of thousands of digits cannot even be shown.
    if type(value) is int and abs(value) >= _LARGEST:
        return "a number beyond 2^53"
    if isinstance(value, dict | list):
        parts = [_short(part) for part in list(value)[:4]] + (["…"] if len(value) > 4 else [])
        return f"[{', '.join(parts)}]" if isinstance(value, list) else f"an object of {len(value)} fields"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "…"
