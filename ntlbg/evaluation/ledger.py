"""What a long bench has found so far, on disk, a line a result, so that a run that was cut off goes on where it
stopped."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ntlbg.errors import InputError


class Ledger:
    """
    Results on disk, one a line; the first line says what decides them.

    Args:
        path: made where it is not there, with its folder.
        settings: what decides the results.
        key: the fields of a result that tell it from the others.

    Attributes:
        lines: {values of `key`: the result}, in the order in which they were found.

    Raises:
        InputError: the file holds results of other settings, or no results.
    """

    def __init__(self, path: Path, settings: dict, key: tuple[str, ...]):
        self.path, self.key = path, key
        self.lines: dict[tuple, dict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            try:
                # What the end of a run cut off has no line break behind it.
                header, *rows = map(json.loads, path.read_text("utf-8").split("\n")[:-1])
                self.lines = {self._of(row): row for row in rows}
                strangers = [line for line in (header, *rows) if not isinstance(line, dict)]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{str(path)!r} holds no results of this bench; remove it") from error
            if strangers:
                raise InputError(f"{str(path)!r} holds no results of this bench; remove it")
            if header != json.loads(json.dumps(settings)):
                other = ", ".join(name for name in settings if header.get(name) != settings[name])
                raise InputError(
                    f"{str(path)!r} holds results of something else (other {other}); give another --out, or remove it"
                )
        # Written anew, without a line that was cut off.
        path.write_text("".join(_line(row) for row in (settings, *self.lines.values())), encoding="utf-8")

    def add(self, row: dict) -> None:
        """Keep one result, at once."""
        self.lines[self._of(row)] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def _of(self, row: dict) -> tuple:
        return tuple(row[name] for name in self.key)


def open_ledger(
    parser: argparse.ArgumentParser, args: argparse.Namespace, settings: dict, key: tuple[str, ...]
) -> Ledger:
    """The ledger of a bench with the options --work and --out; other settings end the command with a sentence."""
    try:
        return Ledger(args.work / f"{args.out.name}.jsonl", settings, key)
    except InputError as error:
        parser.error(str(error))


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


__all__ = ["Ledger", "open_ledger"]
