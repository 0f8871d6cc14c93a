"""What an encoder saw of a video, kept on disk: the same video with the same encoder is looked at once.

An entry is named by the hash of all that decides its content: the bytes of the video (not its path or time), the
weights of the encoder (not its name), the sampling, the code that looks and the libraries it looks with. So entries
never go stale; they are only no longer asked for, and leave when room is needed.

Only files and their bytes are kept. Frames that are already in memory have no file that another process would come
back to; whoever holds them can hold their `CandidateFeatures`, or `save` them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ntlbg.errors import InputError
from ntlbg.fingerprints import code_digest, content_digest, hash_of, library_versions, weights_digests
from ntlbg.processors.dual_encoder_ntlbg import picture_processor
from ntlbg.processors.video_index_ntlbg import open_container, source_name
from ntlbg.processors.video_source_ntlbg import VideoLimits
from ntlbg.selection.encoders import DualEncoder
from ntlbg.selection.features import CandidateFeatures


DEFAULT_MAX_BYTES = 2 * 10**9

# A write takes seconds; a temporary file that nobody has written to for so many was left by a process that died.
ABANDONED_SECONDS = 3600.0

# Everything this class writes, and the only names it ever deletes.
_ENTRY = re.compile(r"[0-9a-f]{64}\.features")
_PART = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.part")

# A change of anything a look at a video runs through makes other entries.
_CODE_DIGEST = code_digest("ntlbg.selection.descriptors", "ntlbg.selection.feature_cache")

_TENSORS = {
    "descriptors": (torch.float32, 2),
    "candidate_indices": (torch.int64, 1),
    "candidate_seconds": (torch.float64, 1),
}
_FACTS = {
    "key": str,
    "fps": float,
    "total_num_frames": int,
    "duration": float,
    "height": int,
    "width": int,
    "warnings": list,
    "clip": list,
}
_CLIPS = ([], [float, float])


class _Damaged(Exception):
    """An entry that cannot be trusted; the message completes "it ..."."""


class FeatureCache:
    """Features of videos in one folder, shared by any number of processes.

    An entry is written beside its place and moved there whole, and carries a checksum: a reader gets all of it or
    nothing. Trouble with the folder (full disk, no permission, damage) never stops a look; it becomes a warning of its
    result. Whatever else lies in the folder is left alone.

    Args:
        folder: made when the first entry is written.
        max_bytes: bound on the entries' sizes together; those used longest ago leave first.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int = DEFAULT_MAX_BYTES):
        if not os.fspath(folder):
            raise ValueError("the name of the cache folder is empty; give a folder, or None to keep nothing")
        if max_bytes < 1:
            raise ValueError(f"the bound of the cache is at least 1 byte, got {max_bytes}")
        self.folder = Path(folder)
        self.max_bytes = max_bytes

    def features(
        self, source: Any, settings: dict, limits: VideoLimits, look: Callable[[], CandidateFeatures]
    ) -> CandidateFeatures:
        """The features of one video: from the folder, or else from `look`, and then kept.

        Args:
            source: path, bytes or binary file object.
            settings: all that decides what `look` sees, apart from the video and the code; ready for JSON.
            limits: what the video may cost.
            look: decodes and describes the candidates.

        Returns:
            what `look` returns, to the bit; out of the folder, without `encoder` and `source`.

        Raises:
            VideoError: the video cannot be read.
        """
        # What is no video, or exceeds the limits, is refused before gigabytes of it are hashed.
        with open_container(source, limits):
            pass
        try:
            stamp = _stamp(source)
            key = _key(content_digest(source), settings)
        except OSError as error:
            return _noted(
                look(), [f"The features were not kept, because hashing the video failed ({_reason(error)})."]
            )
        notes: list[str] = []
        try:
            found = self._read(key)
        except FileNotFoundError:
            found = None
        except _Damaged as damage:
            found = None
            notes.append(f"A cached entry was not used and is removed ({damage}); the video was looked at again.")
        except OSError as error:
            return _noted(look(), [self._not_kept(error)])
        if found is not None:
            return CandidateFeatures(**found, encoder=None, name=source_name(source))
        features = look()
        data = _pack(key, features)
        try:
            if notes:
                self._path(key).unlink(missing_ok=True)
            if _changed(source, stamp):
                notes.append("The video changed while it was looked at, so its features were not kept.")
            elif len(data) > self.max_bytes:
                notes.append(
                    f"The features have {len(data)} bytes, more than the cache's bound of {self.max_bytes}, so they "
                    "were not kept; raise cache_bytes."
                )
            else:
                self._write(key, data)
        except OSError as error:
            notes.append(self._not_kept(error))
        return _noted(features, notes)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.features"

    def _not_kept(self, error: OSError) -> str:
        return (
            f"The features were not kept, because {str(self.folder)!r} cannot be used "
            f"({_reason(error)}); make room or give another folder with cache_dir= "
            "(--cache DIR), or go without (--no-cache)."
        )

    def _read(self, key: str) -> dict:
        path = self._path(key)
        facts = path.lstat()
        # A link would lead out of the folder, a pipe would never end.
        if not stat.S_ISREG(facts.st_mode):
            raise _Damaged("it is no regular file")
        if facts.st_size > self.max_bytes:
            raise _Damaged(f"it has {facts.st_size} bytes, more than the cache's bound of {self.max_bytes}")
        fields = _unpack(key, path.read_bytes())
        # The time of change tells when an entry was last used (many systems do not keep times of access). In a folder
        # that is only read, or when another process has just made room, there is nothing to tell.
        with contextlib.suppress(OSError):
            os.utime(path)
        return fields

    def _write(self, key: str, data: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f"{key}.{secrets.token_hex(8)}.part"
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path(key))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._make_room()

    def _make_room(self) -> None:
        """Remove what dead writers left, then the entries used longest ago, until the rest fits the bound.

        After a write, not before it: two that make room at once and then both write would end above the bound.
        """
        entries = []
        with os.scandir(self.folder) as listing:
            for item in listing:
                is_part = _PART.fullmatch(item.name) is not None
                if not is_part and _ENTRY.fullmatch(item.name) is None:
                    continue
                try:
                    facts = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(facts.st_mode):
                    continue
                if is_part and time.time() - facts.st_mtime > ABANDONED_SECONDS:
                    Path(item.path).unlink(missing_ok=True)
                else:
                    entries.append((is_part, facts.st_mtime_ns, item.path, facts.st_size))
        total = sum(size for *_, size in entries)
        for is_part, _, path, size in sorted(entries):
            # Those of live writers count, but are theirs.
            if total <= self.max_bytes or is_part:
                break
            Path(path).unlink(missing_ok=True)
            total -= size


def default_cache_dir() -> Path:
    """Where features are kept if nothing else is said: `NTLBG_CACHE`, else `ntlbg` in the user's cache folder (XDG).

    Raises:
        InputError: there is no home directory to keep it in.
    """
    if os.environ.get("NTLBG_CACHE"):
        return Path(os.environ["NTLBG_CACHE"])
    # The XDG base directory specification: an address that is not absolute is to be ignored.
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "ntlbg"
    try:
        return Path.home() / ".cache" / "ntlbg"
    except RuntimeError as error:
        raise InputError(
            "there is no home directory to keep features in; set NTLBG_CACHE to a folder, give one with cache_dir= "
            "(--cache DIR), or go without (--no-cache)"
        ) from error


def encoder_fingerprint(encoder: DualEncoder) -> str:
    """A hash of all that decides what an encoder sees: its class, config, every weight, and how it prepares pictures.

    Not its name or folder: a model that was trained on in place is another one, a copy elsewhere is the same. About a
    second per gigabyte of weights and core.
    """
    config = encoder.model.config.to_dict()
    config.pop("_name_or_path", None)
    described = {
        "class": f"{type(encoder.model).__module__}.{type(encoder.model).__qualname__}",
        "config": config,
        "pictures": picture_processor(encoder.processor).to_dict(),
    }
    described["weights"] = weights_digests(encoder.model)
    return hash_of(described)


def _key(content: str, settings: dict) -> str:
    return hash_of({"content": content, "settings": settings, "code": _CODE_DIGEST, "libraries": library_versions()})


def _stamp(source: Any) -> Any:
    """What tells that a video was changed: for a file, what the system notes of it; for a file object, its size."""
    if isinstance(source, str | os.PathLike):
        facts = os.stat(source)
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source)
    return source.seek(0, io.SEEK_END)


def _changed(source: Any, stamp: Any) -> bool:
    try:
        return _stamp(source) != stamp
    except OSError:
        return True


def _pack(key: str, features: CandidateFeatures) -> bytes:
    """A checksum of 32 bytes and what it covers, in safetensors: no pickle, and sizes are checked on reading."""
    facts = {
        "key": key,
        "fps": float(features.fps),
        "total_num_frames": int(features.total_num_frames),
        "duration": float(features.duration),
        "height": int(features.height),
        "width": int(features.width),
        "warnings": features.warnings,
        "clip": [float(end) for end in features.clip or ()],
    }
    body = save(
        {
            "descriptors": features.descriptors.contiguous(),
            "candidate_indices": torch.from_numpy(features.candidate_indices),
            "candidate_seconds": torch.from_numpy(features.candidate_seconds),
            "facts": torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8),
        }
    )
    return hashlib.sha256(body).digest() + body


def _unpack(key: str, data: bytes) -> dict:
    """The fields of `CandidateFeatures` in an entry.

    Raises:
        _Damaged: the checksum fails, or it is not what `_pack` writes for this key.
    """
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise _Damaged("its checksum is wrong")
    try:
        tensors = load(body)
        facts = json.loads(tensors.pop("facts").numpy().tobytes())
        kinds = {name: type(value) for name, value in facts.items()}
    except (SafetensorError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise _Damaged("it does not hold features") from error
    shapes = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
    if kinds != _FACTS or shapes != _TENSORS or len({len(tensor) for tensor in tensors.values()}) != 1:
        raise _Damaged("it does not hold features")
    if {type(note) for note in facts["warnings"]} - {str} or [type(end) for end in facts["clip"]] not in _CLIPS:
        raise _Damaged("it does not hold features")
    if facts.pop("key") != key:
        raise _Damaged("it was made for something else")
    return {
        "descriptors": tensors["descriptors"],
        "candidate_indices": tensors["candidate_indices"].numpy(),
        "candidate_seconds": tensors["candidate_seconds"].numpy(),
        **facts,
        "clip": tuple(facts["clip"]) or None,
    }


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _noted(features: CandidateFeatures, notes: list[str]) -> CandidateFeatures:
    features.warnings += notes
    return features
