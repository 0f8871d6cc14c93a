"""Predictions from outside: read from JSONL, paired with rows by id, refused with file and line when malformed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ntlbg.errors import InputError


class BadPrediction(InputError):
    """A prediction that cannot be scored; the message says what is wrong with it."""


def shown(value: Any) -> str:
    """A value in an error message: its type and the beginning of its text."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def numbers(value: Any, name: str, count: int | None = None) -> list[float]:
    """`value` as finite floats.

    Raises:
        BadPrediction: it is no list, has another length than `count`, or holds something else.
    """
    how_many = "" if count is None else f"{count} "
    if not isinstance(value, Sequence) or isinstance(value, str) or (count is not None and len(value) != count):
        raise BadPrediction(f"{name} should be a list of {how_many}numbers, but is {shown(value)}")
    for one in value:
        whole = isinstance(one, int) and not isinstance(one, bool) and abs(one) < 2**53
        if not whole and not (isinstance(one, float) and math.isfinite(one)):
            raise BadPrediction(f"{name} should hold finite numbers, but holds {shown(one)}")
    return [float(one) for one in value]


def checked(predictions: Sequence[Any], check: Callable[[Any], Any]) -> list:
    """Each prediction as `check` returns it.

    Raises:
        BadPrediction: one is malformed; the message begins with its number, counted from 1.
    """
    results = []
    for number, prediction in enumerate(predictions, start=1):
        try:
            results.append(check(prediction))
        except BadPrediction as error:
            raise BadPrediction(f"prediction {number}: {error}") from error
    return results


def paired(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """
    Raises:
        InputError: there are not as many predictions as references.
    """
    if len(predictions) != len(references):
        raise InputError(
            f"there are {len(predictions)} predictions for {len(references)} references; give one for each, in order"
        )


def read_predictions(
    path: str | os.PathLike, ids: Sequence[str], check: Callable[[Any], Any], key: str = "prediction"
) -> list:
    """
    Predictions of a JSONL file in the order of `ids`; a line is `{"id": ..., key: ...}`, further keys are ignored.

    Args:
        path: the file.
        ids: (n,), of the rows that were asked, each once.
        check: what a prediction has to be, e.g. `span_scores.check_span`; raises `BadPrediction`.
        key: where the prediction stands. None in its place means that the answer could not be read.

    Raises:
        InputError: the file cannot be read, or a row has no prediction.
        BadPrediction: a line is malformed, or its id is unknown or was there before; with file and line.
    """
    path = Path(path)
    wanted, found = set(ids), {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"the predictions {str(path)!r} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadPrediction(f"{place}: it is no JSON; give one object a line") from error
        if not isinstance(row, dict) or "id" not in row or key not in row:
            raise BadPrediction(f"{place}: a line is an object with 'id' and {key!r}, but this is {shown(row)}")
        name = str(row["id"])
        if name not in wanted:
            raise BadPrediction(f"{place}: no row has the id {name!r}; give the predictions for these rows")
        if name in found:
            raise BadPrediction(f"{place}: the id {name!r} was there before; give one prediction a row")
        try:
            found[name] = check(row[key])
        except BadPrediction as error:
            raise BadPrediction(f"{place}: {error}") from error
    if missing := [name for name in ids if name not in found]:
        raise InputError(
            f"{path.name!r} has no prediction for {len(missing)} of {len(ids)} rows, first {missing[0]!r}; a row "
            f"whose answer could not be read has {key!r}: null"
        )
    return [found[name] for name in ids]


__all__ = ["BadPrediction", "checked", "numbers", "paired", "read_predictions", "shown"]
