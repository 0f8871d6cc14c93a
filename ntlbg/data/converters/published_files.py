"""What converters share of reading: the forms in which annotations are published, and options that carry letters."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ntlbg.data.qa_records import LETTERS, BadRow
from ntlbg.errors import InputError


_LETTERED = re.compile(r"\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


def json_list(path: Path) -> list[dict]:
    """The items of a JSON list, or the rows of the Parquet file that the Hub makes of one.

    Raises:
        ValueError: it is neither. InputError: a Parquet file, and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(f"{str(path)!r} is Parquet, which needs pyarrow; install ntlbg[train]") from error
        return pyarrow.parquet.read_table(path).to_pylist()
    items = json.loads(path.read_text("utf-8"))
    if not isinstance(items, list):
        raise ValueError("no list")
    return items


def bare_options(options: list[str]) -> list[str]:
    """Options without their letters: "A. a cup", "(A) a cup" and "A) a cup" are "a cup".

    Raises:
        BadRow: some carry letters, but not A, B, C ... in this order.
    """
    found = [_LETTERED.fullmatch(option.strip()) for option in options]
    if not any(found):
        return options
    if [match and match[1] for match in found] != list(LETTERS[: len(options)]):
        raise BadRow(f"the options' letters are not A, B, C ... in order ({', '.join(map(repr, options))})")
    return [match[2].strip() for match in found]


def split_question(text: str) -> tuple[str, list[str]]:
    """A question whose options follow as lettered lines -> (the bare question, the options without letters).

    Raises:
        BadRow: the letters are not in order.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if number and re.match(r"\(?A[.):]", line)), len(lines))
    question = [line for line in lines[:first] if line.casefold() not in ("options:", "option:")]
    return "\n".join(question).removeprefix("Question:").strip(), bare_options(lines[first:])


__all__ = ["bare_options", "json_list", "split_question"]
