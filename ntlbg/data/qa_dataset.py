"""Questions about videos for training and evaluation: from JSONL, from a builder of `datasets`, or from the Hub.

Only rows are read here; videos are opened by the collator. Rows that cannot be used are told with file and line,
counted, and end the run beyond `max_bad_share`.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ntlbg.data.bad_rows import TOLD, BadRows
from ntlbg.data.qa_records import BadRow, TooManyBadRows, parse_line, parse_row
from ntlbg.errors import InputError, first_sentence
from ntlbg.processors.video_download_ntlbg import is_address


logger = logging.getLogger(__name__)

# Rows that a shuffled stream holds back to draw from.
SHUFFLE_ROWS = 1000

_BUILDER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class QADataset(Dataset):
    """
    Rows in any order, checked before the run; `load_qa` makes one.

    Args:
        source: where rows come from.
        good (`np.ndarray`): positions in the source of the rows that can be used.
        bad (`list[str]`): one sentence with file and line for each row that cannot.
        root: what relative names of videos are relative to.
    """

    def __init__(self, source: _Lines | _Table, good: np.ndarray, bad: list[str], root: Path):
        self.bad = bad
        self._source, self._good, self._root = source, good, root

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> dict:
        """A row as `parse_row` gives it, `video_path` with its folder, and `place`: file and line."""
        position = int(self._good[index])
        row, place = self._source.parse(self._source.read(position)), self._source.place(position)
        # That its files are there was seen before the run; whoever opens them tells if they no longer are.
        return _checked(row, self._root, place, must_exist=False)


class QAStream(IterableDataset):
    """
    Rows in the order of their source, or drawn from `SHUFFLE_ROWS` held back; `load_qa(streaming=True)` makes one.

    A DataLoader's workers share the rows among them. Processes share them if the DataLoader is prepared by accelerate
    with `dispatch_batches=False`: every process reads all rows and takes its part of each batch, so that all have
    equally many batches.

    `state_dict` tells how many rows were given; after `load_state_dict` the next iteration gives the rest, by reading
    again what was given (rows, not videos). Both act where they are called: in a worker through a loader that asks its
    workers, such as torchdata's StatefulDataLoader.

    Args:
        source: where rows come from.
        root: what relative names of videos are relative to.
        bad (`BadRows`): what was left out.
        max_rows: of each epoch, over all workers; None for all.
        shuffle_seed: None for no shuffling.
    """

    def __init__(
        self,
        source: _Lines | _TableStream,
        root: Path,
        bad: BadRows,
        max_rows: int | None,
        shuffle_seed: int | None,
    ):
        self.bad = bad
        self._source, self._root, self._max_rows, self._shuffle_seed = source, root, max_rows, shuffle_seed
        self._epoch = self._given = self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Another order of a shuffled stream; the Trainer calls this."""
        if epoch != self._epoch:
            self._epoch, self._given, self._skip = epoch, 0, 0

    def state_dict(self) -> dict:
        return {"epoch": self._epoch, "rows": self._given}

    def load_state_dict(self, state: dict) -> None:
        self._epoch, self._skip = state["epoch"], state["rows"]
        self._given = self._skip

    def __iter__(self) -> Iterator[dict]:
        skip, self._given, self._skip = self._skip, self._skip, 0
        rows = self._rows() if self._shuffle_seed is None else self._shuffled(self._rows())
        for number, (place, raw) in enumerate(rows):
            if number < skip:
                continue
            # Before the row is out: whoever stops to note the state has it already.
            self._given = number + 1
            try:
                row = _checked(self._source.parse(raw), self._root, place, must_exist=False)
            except BadRow as error:
                self.bad.add_bad(f"{place}: {error}")
                continue
            self.bad.add_good()
            yield row
        self._given = 0

    def _rows(self) -> Iterator[tuple[str, Any]]:
        """This worker's rows, unparsed, and where they stand."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None or self._source.splits_itself else (worker.id, worker.num_workers)
        for number, (place, raw) in enumerate(self._source.scan()):
            if self._max_rows is not None and number >= self._max_rows:
                return
            if number % step == first:
                yield place, raw

    def _shuffled(self, rows: Iterator) -> Iterator:
        worker = get_worker_info()
        rng = np.random.default_rng([self._shuffle_seed, self._epoch, 0 if worker is None else worker.id])
        held: list = []
        for row in rows:
            if len(held) < SHUFFLE_ROWS:
                held.append(row)
                continue
            place = int(rng.integers(SHUFFLE_ROWS))
            held[place], row = row, held[place]
            yield row
        rng.shuffle(held)
        yield from held


def load_qa(
    dataset: str | os.PathLike | Sequence[dict],
    *,
    split: str = "train",
    config: str | None = None,
    streaming: bool = False,
    video_root: str | os.PathLike | None = None,
    max_bad_share: float = 0.0,
    max_rows: int | None = None,
    shuffle_seed: int | None = None,
) -> QADataset | QAStream:
    """
    The rows of a data set.

    Args:
        dataset: a JSONL file; a folder with `<split>.jsonl` or `<split>.parquet`, whole or in parts;
            "package.module:Builder", an importable builder of `datasets`; a Hub name or anything else
            `datasets.load_dataset` takes; or rows in memory. See `qa_records` for what a row may hold.
        split: of a folder, a builder or a Hub name; a file is one split.
        config: name of the configuration of a folder, a builder or a Hub name.
        streaming: rows as they come instead of an index over all: for data sets that are not to be read or downloaded
            before the run.
        video_root: what `video_path` is relative to; the JSONL file's folder by default, else the working directory. A
            row without `video_path` means `<video_id>.mp4`.
        max_bad_share: share of the rows, in [0, 1], that may be bad; one more is an error. A stream is judged as it
            comes, as if at least 200 rows had been seen.
        max_rows: only the first so many (good rows; of a stream, rows).
        shuffle_seed: of a stream, see `QAStream`; data sets with an index are shuffled by the Trainer's sampler.

    Returns:
        `QADataset`, or `QAStream` with `streaming`. Files that a row of a `QADataset` names are there; those of a
        stream are looked for when they are opened.

    Raises:
        TooManyBadRows: see `max_bad_share`; the message tells the first ones.
        InputError: there is no such data set, it is empty, `datasets` is needed and not installed, or an argument is
            out of range.
    """
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows is at least 1, got {max_rows}; leave it out for all rows")
    source, folder = _source(dataset, split, config, streaming)
    root = Path(folder if video_root is None else video_root)
    if video_root is not None and not root.is_dir():
        raise InputError(f"video_root {str(root)!r} is no folder; give the one that 'video_path' is relative to")
    bad = BadRows(max_bad_share, f"rows of {source.name}")
    if streaming:
        return QAStream(source, root, bad, max_rows, shuffle_seed)
    return _indexed(source, root, max_bad_share, max_rows)


def _indexed(source: _Lines | _Table, root: Path, max_bad_share: float, max_rows: int | None) -> QADataset:
    good: list[int] = []
    bad: list[str] = []
    known: set[str] = set()
    for position, (place, raw) in enumerate(source.scan()):
        try:
            _checked(source.parse(raw), root, place, known=known)
        except BadRow as error:
            bad.append(f"{place}: {error}")
            continue
        good.append(position)
        if len(good) == max_rows:
            break
    total = len(good) + len(bad)
    if not total:
        raise InputError(f"{source.name} has no rows; give one question a row")
    told = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    if len(bad) > max_bad_share * total:
        raise TooManyBadRows(
            f"{len(bad)} of {total} rows of {source.name} cannot be used, more than the share of {max_bad_share:g} "
            f"that is allowed (max_bad_share): {told}"
        )
    if not good:
        raise InputError(f"none of the {total} rows of {source.name} can be used: {told}")
    for sentence in bad[:TOLD]:
        logger.warning("A bad row is left out: %s", sentence)
    if bad:
        logger.warning("%d of %d rows of %s are bad and left out", len(bad), total, source.name)
    return QADataset(source, np.array(good, dtype=np.int64), bad, root)


def _checked(row: dict, root: Path, place: str, *, must_exist: bool = True, known: set[str] | None = None) -> dict:
    """`row` with its place and the full names of its files; `known` are files that were there already."""
    row["place"] = place
    if isinstance(row.get("subtitles"), str):
        row["subtitles"] = str(root / row["subtitles"])
    if "video_bytes" in row:
        return row
    name = row.get("video_path", f"{row['video_id']}.mp4")
    if is_address(name):
        return row
    row["video_path"] = path = str(root / name)
    if must_exist and (known is None or path not in known):
        try:
            there = os.path.isfile(path)
        except ValueError:  # a null character
            there = False
        if not there:
            raise BadRow(f"its video {path!r} is not there; give its folder with video_root, or correct 'video_path'")
        if known is not None:
            known.add(path)
    return row


# -- where rows come from --------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a JSONL file; read anew each time, so that a million of them take no memory."""

    splits_itself = False

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self._offsets, self._numbers = array("q"), array("q")

    def scan(self) -> Iterator[tuple[str, bytes]]:
        """(place, line) of every line that is not blank."""
        self._offsets, self._numbers = array("q"), array("q")
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._offsets.append(offset)
                    self._numbers.append(number)
                    yield f"{self.path}:{number}", line
                offset += len(line)

    def read(self, position: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self._offsets[position])
            return file.readline()

    def place(self, position: int) -> str:
        return f"{self.path}:{self._numbers[position]}"

    @staticmethod
    def parse(raw: bytes) -> dict:
        return parse_line(raw)


class _Table:
    """Rows by number: a `datasets.Dataset`, or a list."""

    splits_itself = False

    def __init__(self, rows: Any, name: str):
        self._rows_of, self.name = rows, name

    def scan(self) -> Iterator[tuple[str, Any]]:
        for position, row in enumerate(self._rows_of):
            yield self.place(position), row

    def read(self, position: int) -> Any:
        return self._rows_of[position]

    def place(self, position: int) -> str:
        return f"{self.name}, row {position}"

    @staticmethod
    def parse(raw: Any) -> dict:
        return parse_row(raw)


class _TableStream:
    """Rows of a `datasets.IterableDataset`, which parts its files among workers itself."""

    splits_itself = True

    def __init__(self, rows: Any, name: str):
        self._rows_of, self.name = rows, name

    def scan(self) -> Iterator[tuple[str, Any]]:
        for position, row in enumerate(self._rows_of):
            yield f"{self.name}, row {position}", row

    @staticmethod
    def parse(raw: Any) -> dict:
        return parse_row(raw)


def _source(dataset: Any, split: str, config: str | None, streaming: bool):
    """What gives the rows, and the folder that their files are relative to."""
    if isinstance(dataset, list | tuple):
        return _Table(dataset, "the rows given"), "."
    name = os.fspath(dataset)
    path = Path(name)
    folder = path / ("" if config in (None, "default") else config)
    parts = (f"{split}.parquet", f"{split}-[0-9]*-of-[0-9]*.parquet") if path.is_dir() else ()
    tables = sorted(str(found) for part in parts for found in folder.glob(part))
    if (folder / f"{split}.jsonl").is_file():
        path = folder / f"{split}.jsonl"
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise InputError(f"there is no file {name!r}; give a JSONL file, one question a line")
        return _Lines(path), path.parent
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{name!r} is no JSONL file, and other data sets need the package 'datasets'; install ntlbg[train]"
        ) from error
    try:
        if _BUILDER.fullmatch(name):
            rows = _built(name, split, config, streaming, datasets)
        elif tables:
            # By its files: of a folder `datasets` gives what it held when it was first loaded, whatever it holds now.
            rows = datasets.load_dataset("parquet", data_files=tables, split="train", streaming=streaming)
        else:
            rows = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the split {split!r} of {name!r} cannot be loaded ({first_sentence(error)}); give a JSONL file, "
            "'package.module:Builder' or a Hub name"
        ) from error
    # Pictures are decoded by the processor, exactly and at their true times.
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Video):
            rows = rows.cast_column(column, datasets.Video(decode=False))
    label = f"{name} ({split})"
    return (_TableStream if streaming else _Table)(rows, label), "."


def _built(name: str, split: str, config: str | None, streaming: bool, datasets):
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise InputError(f"there is no module {error.name!r} to take the builder {name!r} from") from error
    if not (isinstance(found, type) and issubclass(found, datasets.DatasetBuilder)):
        raise InputError(f"{name!r} is no builder of `datasets`; name a subclass of datasets.GeneratorBasedBuilder")
    builder = found(config_name=config)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


__all__ = ["QADataset", "QAStream", "load_qa"]
