"""A folder with a model or with rows of data, pushed to the Hub in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ntlbg.errors import InputError, first_sentence


# Of an earlier commit: a single file would be loaded before newer shards, and adapters onto a model that has them.
STALE = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "align_statistics.safetensors",
)


def push_folder(
    folder: str | Path,
    name: str,
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] = (),
    kind: str = "model",
) -> str:
    r"""
    Upload a folder; weights and adapters that it does not hold are deleted in a model's repository.

    Args:
        name: of the repository, which is made where there is none.
        message: of the commit.
        private: of a new repository.
        kind: "model" or "dataset".
        token, revision, allow_patterns, ignore_patterns: as in [`~huggingface_hub.HfApi.upload_folder`].

    Returns:
        The commit's address.

    Raises:
        InputError: the Hub does not take it, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # That of the library below it, for a Hub that cannot be reached; which one depends on huggingface_hub's release.
    transport_error = HfHubHTTPError.__bases__[0]
    api = HfApi(token=token)
    try:
        repo = api.create_repo(name, repo_type=kind, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            allow_patterns=None if allow_patterns is None else list(allow_patterns),
            ignore_patterns=list(ignore_patterns),
            delete_patterns=list(STALE) if kind == "model" else None,
        )
    # Of a file that is refused while it is uploaded it makes a RuntimeError or a ValueError.
    except (transport_error, HFValidationError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{str(folder)!r} was written, but cannot be pushed to {name!r} ({first_sentence(error)}); check the "
            "name, the network, and `hf auth login`"
        ) from error
    return commit.commit_url


__all__ = ["push_folder"]
