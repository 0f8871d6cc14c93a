"""Hashes that name what was computed by all that decides it: a video's bytes, weights, code, libraries, settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import av
import torch


_IMPORT = re.compile(rb"^\s*from (ntlbg\.[\w.]+) import", re.MULTILINE)
_LIBRARIES = ("av", "numpy", "pillow", "torch", "torchvision", "transformers")


def code_digest(*modules: str) -> str:
    """Of the source text of these modules and of all of this library that they import, however indirectly.

    To be taken on import: files may be edited later, while the process goes on with what it has loaded.
    """
    sources: dict[str, bytes] = {}
    names = list(modules)
    while names:
        name = names.pop()
        if name not in sources and (spec := find_spec(name)) is not None:
            sources[name] = spec.loader.get_data(spec.origin)
            names += [found.decode() for found in _IMPORT.findall(sources[name])]
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(sources[name])
    return digest.hexdigest()


def library_versions() -> dict:
    """Of the libraries that decode, prepare and encode pictures."""
    # PyAV may be built against any FFmpeg.
    return {name: version(name) for name in _LIBRARIES} | {"ffmpeg": av.library_versions}


def hash_of(value: Any) -> str:
    """Of anything JSON can tell; all else by its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def content_digest(source: Any) -> str:
    """Of the bytes of a path, of bytes, or of a binary file object.

    Raises:
        OSError: it cannot be read.
    """
    # SHA-256 is the fastest of the standard library's on processors that have it built in, about a gigabyte a second.
    if isinstance(source, bytes | bytearray | memoryview):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        file = source
        if isinstance(source, str | os.PathLike):
            file = stack.enter_context(open(source, "rb"))
        file.seek(0)
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    """Of a tensor's values, type and shape."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def weights_digests(module: torch.nn.Module) -> list[tuple[str, str]]:
    """(name, digest) of every parameter and buffer; about a second per gigabyte and core."""
    # Buffers by name, because those that are not saved are absent from the state dict.
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(tensor_digest, (tensor for _, tensor in tensors))
        return [(name, digest) for (name, _), digest in zip(tensors, digests, strict=True)]


__all__ = ["code_digest", "content_digest", "hash_of", "library_versions", "tensor_digest", "weights_digests"]
