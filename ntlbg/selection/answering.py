"""A model by its name, ready to be asked about videos.

`VideoAnswerer` drives NTLBG checkpoints and plain bases of the families that NTLBG knows (k counts groups);
`ImageAnswerer` drives any other vision-language model of transformers through its images (k counts frames);
`server_answering` one behind a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from ntlbg.configuration.configuration_ntlbg import SUPPORTED_BASES
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.video_source_ntlbg import VideoLimits
from ntlbg.selection.answers import ModelError
from ntlbg.selection.api import FrameSelector
from ntlbg.selection.choosing import OURS, check_selector
from ntlbg.selection.encoders import DEFAULT_ENCODER, LOADING_ERRORS, needs_own_code, reason_of
from ntlbg.selection.image_answering import ImageAnswerer
from ntlbg.selection.video_answering import VideoAnswerer


def load_answerer(
    name: str,
    *,
    encoder: str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    max_new_tokens: int = 128,
    selector: str = OURS,
    candidate_fps: float | None = None,
    max_candidates: int | None = None,
    dtype: str | torch.dtype = "auto",
    attn_implementation: str | None = None,
    cache_dir: str | os.PathLike | bool | None = None,
    limits: VideoLimits | None = None,
) -> VideoAnswerer | ImageAnswerer:
    """Load a model by what it is.

    An NTLBG checkpoint is loaded by this package's own classes, never by the code beside it. A plain base of a known
    family gets an untrained selector in front. Any other model gets images.

    Args:
        name: Hub name or folder.
        encoder: dual encoder that judges frames for a model that is no NTLBG checkpoint; None: SigLIP 2 base; "none":
            frames stand for the video as a whole.
        device: a GPU if there is one, else the CPU.
        trust_remote_code: run code that comes with a model that is neither, be it from the Hub or in a folder.
        max_new_tokens, selector, candidate_fps, max_candidates: see the answerers.
        dtype, attn_implementation: of the model, as transformers' `from_pretrained` takes them.
        cache_dir: see `FrameSelector`; only a model that gets images uses one.
        limits: what a video may cost, see `VideoLimits`.

    Raises:
        ModelError: it cannot be loaded. EncoderError: the encoder cannot be loaded.
    """
    limits = limits or VideoLimits()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {"max_new_tokens": max_new_tokens, "selector": check_selector(selector)}
    sampling = {"candidate_fps": candidate_fps, "max_candidates": max_candidates}
    given = {option: value for option, value in sampling.items() if value is not None}
    loading = {"dtype": dtype} | ({"attn_implementation": attn_implementation} if attn_implementation else {})
    with _load_errors(name):
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if model_type == "ntlbg":
        if encoder is not None:
            raise ModelError(
                f"{name!r} is an NTLBG checkpoint, which brings its own first look, but the encoder {encoder!r} was "
                "given; drop --encoder"
            )
        with _load_errors(name):
            model = NTLBGForConditionalGeneration.from_pretrained(name, **loading)
            processor = NTLBGProcessor.from_pretrained(name, trust_remote_code=False)
            _check_chat_template(processor, name)
        processor.video_processor.limits = limits
        return VideoAnswerer(model.to(device), processor, **options, **sampling)
    judge = None if encoder == "none" else encoder or DEFAULT_ENCODER
    frames = FrameSelector(judge, device=device, limits=limits, cache_dir=cache_dir, **given)
    if model_type in SUPPORTED_BASES:
        scorer = frames.encoder
        with _load_errors(name):
            model = NTLBGForConditionalGeneration.from_base(
                name, scorer=None if scorer is None else scorer.model, trust_remote_code=False, **loading
            )
            processor = NTLBGProcessor.from_base(
                str(name),
                scorer_processor=None if scorer is None else scorer.processor,
                trust_remote_code=False,
            )
            _check_chat_template(processor, name)
        processor.video_processor.limits = limits
        return VideoAnswerer(model.to(device), processor, **options, **sampling)
    with _load_errors(name):
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=trust_remote_code, **loading)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
        _check_chat_template(processor, name)
    return ImageAnswerer(model.to(device), processor, frames, **options)


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        if needs_own_code(error):
            raise ModelError(
                f"the model {name!r} needs the code that comes with it, which has not been allowed to run; read it, "
                "and give --trust-remote-code if you trust it"
            ) from error
        raise ModelError(
            f"the model {name!r} cannot be loaded ({reason_of(error, name)}): give a folder or a Hub name of a "
            "vision-language model with --model, and go online if it is not cached"
        ) from error


def _check_chat_template(processor: Any, name: str) -> None:
    if processor.chat_template is None:
        raise ModelError(
            f"the model {name!r} has no chat template, so it cannot be asked anything; give one that was tuned for "
            "conversation (its name often ends in Instruct)"
        )
