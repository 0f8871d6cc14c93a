"""What a frozen vision tower makes of videos, kept on disk: they are decoded and encoded once, not every epoch.

An entry is named by all that decides it: the video's bytes and clip, sampling and picture preparation, the tower's
weights and settings, the code and the libraries it runs through. So entries never go stale, and any number of
processes may use a folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers.integrations import is_deepspeed_zero3_enabled

from ntlbg.data.bad_rows import TOLD
from ntlbg.data.batch_decoding import decode_videos
from ntlbg.data.qa_records import BadRow, TooManyBadRows, video_source
from ntlbg.data.video_entries import DamagedEntry, VideoEntry, read_entry, remove_abandoned, write_entry, write_text
from ntlbg.errors import InputError, first_sentence
from ntlbg.fingerprints import code_digest, content_digest, hash_of, library_versions, weights_digests
from ntlbg.processors.video_download_ntlbg import is_address
from ntlbg.processors.video_source_ntlbg import CandidateFrames, VideoError


logger = logging.getLogger(__name__)

# A change of anything a video runs through on its way to an entry makes other entries.
_CODE_DIGEST = code_digest(
    "ntlbg.data.video_entries", "ntlbg.modeling_ntlbg.adapters_ntlbg", "ntlbg.processors.processing_ntlbg"
)

_DIGEST = re.compile(r"[0-9a-f]{64}")

# What the processor adds because it is shown one blank group instead of the video.
_OF_THE_BLANK = ("pixel_values_videos", "kept_group_indices", "kept_group_counts")


@dataclass(frozen=True)
class Prepared:
    """What a pass over the videos did.

    Args:
        made: videos that this process encoded.
        kept: videos whose features were there, or were made by another process.
        bad: one sentence for each video that cannot be used.
    """

    made: int
    kept: int
    bad: list[str]


@dataclass(frozen=True)
class _Video:
    """One video, or clip of one: its name, the first row about it, and how many rows are."""

    name: str
    row: int
    rows: int


class FrozenFeatures:
    """
    Features of a frozen vision tower in one folder; filled by `prepare`, read by `NTLBGDataCollator(features=...)`.

    >>> features = FrozenFeatures(folder, model, processor)  # doctest: +SKIP
    >>> features.prepare(dataset, rank=rank, world_size=world_size)  # doctest: +SKIP
    >>> collator = NTLBGDataCollator(processor, features=features)  # doctest: +SKIP

    Make it, and call `prepare`, under the autocast of the training, so that the tower computes what it would there.
    Under ZeRO-3 all processes have to make it and call `prepare` together.

    Args:
        folder: made when the first entry is written; processes share it.
        model (`NTLBGForConditionalGeneration`): whose tower it is, after the stage has frozen what it freezes.
        processor (`NTLBGProcessor`): its sampling and sizes decide what the tower sees; not to be changed afterwards.

    Raises:
        InputError: something of the tower is to be trained, the model has a second stream, or the folder's name is a
            file's.
    """

    def __init__(self, folder: str | os.PathLike, model: nn.Module, processor):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"the feature cache {str(folder)!r} is a file; give a folder")
        if model.temporal_encoder is not None:
            raise InputError(
                "this model has a second stream, which sees other frames for every choice, so that no features of it "
                "can be kept beforehand; leave out the feature cache"
            )
        tower = _tower(model)
        trained = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
        if trained:
            raise InputError(
                f"{len(trained)} parameters of the vision tower are to be trained ({trained[0]!r} first), so that "
                "features kept beforehand would be wrong after one step; leave out the feature cache, or take a stage "
                "that leaves the tower and its merger frozen"
            )
        with _whole(tower):
            self.fingerprint = _fingerprint(tower, processor)
        self._entries = self.folder / self.fingerprint[:32]
        self._contents: dict[str, str] = {}
        self._model: nn.Module | None = model
        self._processor = processor

    def __getstate__(self) -> dict:
        # Workers of a DataLoader read entries; the model stays where it is.
        return self.__dict__ | {"_model": None}

    # -- the one pass --------------------------------------------------------------------------------------------

    def prepare(
        self,
        rows,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        max_bad_share: float = 0.0,
        progress: bool = True,
    ) -> Prepared:
        """
        Encode every video of `rows` whose features are not in the folder; a pass that was cut off is taken up again.

        With several processes each calls this with the same rows: each begins with its part and then takes over what
        is still missing of the others'. It returns when every video is done, so that no process has to wait.

        Args:
            rows: a `QADataset`, or a list of such rows.
            rank, world_size: of this process.
            workers: processes that decode while this one encodes; with 0 this one does both.
            max_bad_share: share of the rows, in [0, 1], whose video may be unusable; one more is an error. The
                collator leaves such rows out.
            progress: show a bar.

        Raises:
            TooManyBadRows: see `max_bad_share`; what was made stays.
            InputError: the rows are a stream, or the folder cannot be written to.
        """
        try:
            total = len(rows)
        except TypeError as error:
            raise InputError(
                "a feature cache has to know all videos before the run, but a stream was given; load the data without "
                "streaming, or leave out the feature cache"
            ) from error
        remove_abandoned(self._entries)
        videos = _distinct(rows)
        mine, others = videos[rank::world_size], [v for i, v in enumerate(videos) if i % world_size != rank]
        # In another order in each process, so that those that are done early do not take over the same videos.
        random.Random(rank).shuffle(others)
        bad: dict[_Video, str] = {}
        made = 0
        with (
            _encoding(self._model) as tower,
            tqdm(total=len(videos), desc="encode videos", disable=not progress) as bar,
        ):
            todo = self._missing(rows, [*mine, *others], bar, bad)
            with closing(self._decoded(todo, workers)) as decoded:
                for video, candidates, error in decoded:
                    error = error or self._keep(rows[video.row], candidates, tower)
                    if error is None:
                        made += 1
                    else:
                        bad[video] = error
                    bar.update()
        # What failed here may have been made elsewhere meanwhile.
        bad = {video: why for video, why in bad.items() if not self._is_kept(rows[video.row])}
        sentences = [f"{video.name}: {why}" for video, why in bad.items()]
        lost = sum(video.rows for video in bad)
        if lost > max_bad_share * total:
            raise TooManyBadRows(
                f"{lost} of {total} rows have a video that cannot be used, more than the share of {max_bad_share:g} "
                f"that is allowed (max_bad_share): {'; '.join(sentences[:3])}"
            )
        for sentence in sentences[:TOLD]:
            logger.warning("A video has no features, and its rows are left out: %s", sentence)
        return Prepared(made, len(videos) - made - len(bad), sentences)

    def _missing(self, rows, videos: list[_Video], bar: tqdm, bad: dict) -> Iterator[tuple[_Video, Any]]:
        """Videos without features and their sources, judged when their turn comes: others may have made them."""
        for video in videos:
            row = rows[video.row]
            try:
                self._learn_content(row)
            except VideoError as error:
                bad[video] = str(error)
            else:
                if not self._is_kept(row):
                    yield video, video_source(row)
                    continue
            bar.update()

    def _decoded(self, todo: Iterator, workers: int) -> Iterator[tuple[_Video, CandidateFrames | None, str | None]]:
        video_processor = self._processor.video_processor
        grid = video_processor.sampling()
        # Workers decode grids; every picture of a video (`do_sample_frames=False`) is decoded here.
        if workers == 0 or grid is None:
            for video, source in todo:
                try:
                    yield video, video_processor.fetch([source])[0], None
                except VideoError as error:
                    yield video, None, str(error)
            return
        handed: list[_Video] = []

        def sources() -> Iterator[Any]:
            for video, source in todo:
                handed.append(video)
                yield source

        decoded = decode_videos(
            sources(),
            candidate_fps=grid[0],
            max_candidates=grid[1],
            max_side=video_processor.max_side,
            limits=video_processor.limits,
            workers=workers,
            in_order=False,
        )
        with closing(decoded):
            for outcome in decoded:
                yield handed[outcome.number], outcome.candidates, outcome.error

    def _keep(self, row: dict, candidates: CandidateFrames, tower: nn.Module) -> str | None:
        """Encode one video and keep it; why it cannot be, or None."""
        prompt = self._processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
        try:
            inputs = self._processor(text=[prompt], videos=[candidates], query=[""])
        except ValueError as error:  # a picture that the base's video processor cannot resize
            return first_sentence(error)
        device = next(tower.parameters()).device
        pixels, grid = inputs["pixel_values_videos"].to(device), inputs["video_grid_thw"].to(device)
        (features,) = self._model.encode_video(pixels, grid)
        if "video_bytes" not in row and self._has_changed(row["video_path"]):
            return "it changed while it was looked at; let whatever writes it finish"
        key = self._key(row)
        try:
            write_entry(self._entry(key), key, VideoEntry.of(candidates, features, grid[0]))
        except OSError as error:
            raise self._unwritable(error) from error
        return None

    # -- names ---------------------------------------------------------------------------------------------------

    def _learn_content(self, row: dict) -> None:
        """Hash the row's video, unless its path, size and time of change are known.

        Raises:
            VideoError: it cannot be read.
        """
        if "video_bytes" in row or row["video_path"] in self._contents:
            return
        path = row["video_path"]
        if is_address(path):
            raise VideoError("an address has no content to know it by; download the video and give its file")
        try:
            note = self._note(path)
            content = _read_note(note)
            is_new = content is None
            if is_new:
                content = content_digest(path)
        except OSError as error:
            raise VideoError(f"its file cannot be read ({first_sentence(error)})") from error
        if is_new:
            try:
                write_text(note, content)
            except OSError as error:
                raise self._unwritable(error) from error
        self._contents[path] = content

    def _note(self, path: str) -> Path:
        """Where the content of the file that is at `path` now is noted."""
        facts = os.stat(path)
        return self.folder / "videos" / hash_of([os.path.abspath(path), facts.st_size, facts.st_mtime_ns])

    def _has_changed(self, path: str) -> bool:
        try:
            return _read_note(self._note(path)) != self._contents[path]
        except OSError:
            return True

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"features cannot be kept in {str(self.folder)!r} ({first_sentence(error)}); make room, or give another "
            "folder"
        )

    def _key(self, row: dict) -> str:
        """
        Raises:
            KeyError: `prepare` has not seen this video, or could not read it.
        """
        content = content_digest(row["video_bytes"]) if "video_bytes" in row else self._contents[row["video_path"]]
        return hash_of([content, row.get("clip"), self.fingerprint])

    def _entry(self, key: str) -> Path:
        return self._entries / f"{key}.safetensors"

    def _is_kept(self, row: dict) -> bool:
        try:
            return self._entry(self._key(row)).is_file()
        except KeyError:
            return False

    # -- reading -------------------------------------------------------------------------------------------------

    def inputs(self, row: dict, prompt: str) -> dict[str, Any]:
        """
        What the processor returns for one row, with `video_features` instead of pixels; no video is opened.

        The processor writes the prompt itself: it is shown the true times, and one blank group at the tower's size.

        Raises:
            BadRow: there are no features, or they are damaged (and then removed, so that the next pass makes them).
        """
        try:
            key = self._key(row)
            entry = read_entry(self._entry(key), key)
        except (KeyError, FileNotFoundError) as error:
            raise BadRow(
                f"its video has no features in {str(self.folder)!r}; call `prepare` with the rows of this run"
            ) from error
        except DamagedEntry as damage:
            self._entry(key).unlink(missing_ok=True)
            raise BadRow(f"its features are damaged (the file {damage}) and were removed; start again") from damage
        return entry_inputs(self._processor, entry, prompt, row["question"])


def entry_inputs(processor, entry: VideoEntry, prompt: str, question: str) -> dict[str, Any]:
    """What the processor returns for one prompt, with the entry's `video_features` instead of pixels."""
    video_processor = processor.video_processor
    blank = entry.blank(video_processor.temporal_patch_size, video_processor.patch_size)
    inputs = dict(
        processor(
            text=[prompt],
            videos=[blank],
            query=[question],
            kept_groups=[[0]],
            do_resize=False,
            return_metadata=True,
        )
    )
    for name in _OF_THE_BLANK:
        del inputs[name]
    return inputs | {"video_features": entry.features}


def _read_note(note: Path) -> str | None:
    try:
        text = note.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def _distinct(rows) -> list[_Video]:
    first: dict[tuple, int] = {}
    count: dict[tuple, int] = {}
    for number in range(len(rows)):
        row = rows[number]
        video = content_digest(row["video_bytes"]) if "video_bytes" in row else row["video_path"]
        name = (video, tuple(row.get("clip", ())))
        first.setdefault(name, number)
        count[name] = count.get(name, 0) + 1
    return [_Video(name[0], first[name], count[name]) for name in first]


def _tower(model: nn.Module) -> nn.Module:
    """What makes visual tokens, merger included."""
    return model.adapter.tower


@contextlib.contextmanager
def _whole(tower: nn.Module) -> Iterator[None]:
    """Under ZeRO-3 a process holds a part of each weight; here it has all of the tower's."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(tower.parameters())):
        yield


@contextlib.contextmanager
def _encoding(model: nn.Module) -> Iterator[nn.Module]:
    tower = _tower(model)
    training = tower.training
    tower.eval()
    try:
        with _whole(tower):
            yield tower
    finally:
        tower.train(training)


def _fingerprint(tower: nn.Module, processor) -> str:
    video_processor = processor.video_processor
    device = next(tower.parameters()).device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    config = tower.config.to_dict()
    for name in ("dtype", "_name_or_path"):  # the first is told by the weights, the second decides nothing
        config.pop(name, None)
    return hash_of(
        {
            "tower": f"{type(tower).__module__}.{type(tower).__qualname__}",
            "config": config,
            "attention": tower.config._attn_implementation,
            "autocast": autocast,
            "weights": weights_digests(tower),
            "processor": processor.base_processor_class,
            "pictures": video_processor.to_dict(),
            "sampling": [video_processor.sampling(), video_processor.max_side],
            "code": _CODE_DIGEST,
            "libraries": library_versions(),
        }
    )


__all__ = ["FrozenFeatures", "Prepared", "entry_inputs"]
