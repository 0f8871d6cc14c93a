"""Any dual encoder of transformers (CLIP, SigLIP, SigLIP 2, X-CLIP, ...) as a judge of frames against a query.

Shapes: N frames, P pieces of a query, d embedding width. Embeddings are float32 on the CPU and not normalised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm import tqdm

from ntlbg.errors import InputError, first_sentence
from ntlbg.modeling_ntlbg.scorer_ntlbg import clip_windows, embed_clips
from ntlbg.processors.dual_encoder_ntlbg import picture_inputs, picture_processor, text_inputs


DEFAULT_ENCODER = "google/siglip2-base-patch16-224"

# How transformers says that a model cannot be loaded. OSError: an unreachable Hub, a wrong name, an incomplete folder;
# ValueError and KeyError: an unknown architecture; then weights that are cut off, a config of wrong types, and weights
# of another size than the config says.
LOADING_ERRORS = (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError, RuntimeError)


class EncoderError(InputError):
    """An encoder cannot be had or is not a dual encoder; one sentence: what is wrong, what came, how to fix it."""


class DualEncoder:
    """A dual encoder and its processor, loaded once.

    An encoder of videos (X-CLIP, VideoPrism) judges each frame by the short clip around it: `num_frames` neighbouring
    candidates, so it costs that many times as much. X-CLIP's texts are embedded without its video-specific prompt,
    which would need all patches of every clip once more for each query.

    Args:
        model: a transformers model with `get_text_features` and `get_image_features` or `get_video_features`.
        processor: its processor (tokenizer and image or video processor).
        name: how it is called in reports.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, name: str):
        methods = {m for m in ("text", "image", "video") if callable(getattr(model, f"get_{m}_features", None))}
        if "text" not in methods or methods == {"text"}:
            raise EncoderError(
                f"{name} ({type(model).__name__}) is no dual encoder of pictures and texts: it has no "
                f"get_{'text' if 'text' not in methods else 'image'}_features; give one such as {DEFAULT_ENCODER} or "
                "openai/clip-vit-base-patch32"
            )
        if "image" not in methods and "num_frames" not in model.config.vision_config.to_dict():
            raise EncoderError(
                f"{name} ({type(model).__name__}) is an encoder of videos that does not say how many frames it sees; "
                f"give one such as {DEFAULT_ENCODER} or microsoft/xclip-base-patch32"
            )
        self.model = model.eval()
        self.processor = processor
        # SigLIP 2's tokenizer does not know how much its text tower reads.
        processor.tokenizer.model_max_length = min(_reads(model), processor.tokenizer.model_max_length)
        self.name = name

    @classmethod
    def load(cls, name: str = DEFAULT_ENCODER, device: str | torch.device | None = None) -> DualEncoder:
        """Load from the Hub (or its cache) or from a local folder.

        Args:
            name: Hub name or path.
            device: where it runs; a GPU if there is one, else the CPU.

        Raises:
            EncoderError: not reachable and not cached, not a model, or no dual encoder.
        """
        # Only here, so that choosing without a query does not wait for transformers.
        from transformers import AutoModel, AutoProcessor

        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            model = AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        except LOADING_ERRORS as error:
            # Falling back to no query would answer another question.
            if needs_own_code(error):
                raise EncoderError(
                    f"the encoder {name!r} needs code of its own, which is never run; give one that transformers "
                    f"knows, such as {DEFAULT_ENCODER}"
                ) from error
            raise EncoderError(
                f"the encoder {name!r} cannot be loaded ({reason_of(error, name)}): give a local folder or a cached "
                "name with encoder= (--encoder PATH), go online, or drop the query to choose without one"
            ) from error
        encoder = cls(model.to(device), processor, str(name))
        # What embeds no text is found out before a video is looked at.
        encoder.encode_text("a")
        return encoder

    @property
    def input_side(self) -> int:
        """Side in pixels of the pictures the encoder looks at; larger ones are scaled down by the processor."""
        prepare = picture_processor(self.processor)
        if prepare.size is None:
            # SigLIP 2 (NaFlex) keeps the aspect ratio within a budget of patches instead.
            return round(prepare.patch_size * prepare.max_num_patches**0.5)
        return max(int(side) for side in dict(prepare.size).values() if side is not None)

    @torch.inference_mode()
    def encode_images(self, frames: np.ndarray, batch_size: int = 32, progress: bool = False) -> torch.Tensor:
        """Embed frames, uint8 (N, H, W, 3) RGB, `batch_size` at a time -> (N, d)."""
        windows = clip_windows(self.model, len(frames))
        chunks = windows.split(max(batch_size // windows.shape[1], 1))
        embedded = []
        for chunk in tqdm(chunks, desc="encode", unit="batch", delay=1.0, leave=False, disable=not progress):
            first = int(chunk.min())
            pictures = self._placed(picture_inputs(self.processor, frames[first : int(chunk.max()) + 1]))
            embedded.append(embed_clips(self.model, pictures, chunk - first).cpu())
        return torch.cat(embedded)

    @torch.inference_mode()
    def encode_text(self, text: str) -> torch.Tensor:
        """Embed one text -> (P, d), one row for each piece the encoder can read; P is 1 unless the text is long.

        Raises:
            EncoderError: the text is far too long, or the model makes no one embedding of it.
        """
        try:
            inputs = text_inputs(self.processor, text)
        except ValueError as error:
            raise EncoderError(str(error)) from error
        embedded = self.model.get_text_features(**self._placed(inputs)).pooler_output
        if embedded is None or embedded.ndim != 2:
            raise EncoderError(
                f"{self.name} ({type(self.model).__name__}) is no dual encoder: it makes no one embedding of a text; "
                f"give one such as {DEFAULT_ENCODER} or openai/clip-vit-base-patch32"
            )
        return embedded.float().cpu()

    def _placed(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in inputs.items()}


def needs_own_code(error: Exception) -> bool:
    """Whether loading failed because a model comes with code that nobody has allowed to run."""
    return "trust_remote_code" in str(error)


def reason_of(error: Exception, name: str) -> str:
    """Why `name` cannot be loaded, in a few words."""
    if len(Path(name).parts) != 2 and not Path(name).exists() and "/" in str(name):
        return "there is no such folder"
    return first_sentence(error)


def _reads(model: torch.nn.Module) -> int:
    """Tokens that the text tower of `model` has positions for."""
    count = int(model.config.get_text_config().max_position_embeddings)
    for name, module in model.named_modules():
        positions = name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
        if positions and module.num_embeddings == count and module.padding_idx is not None:
            # RoBERTa's kind (AltCLIP) counts its positions from behind that of padding.
            return count - module.padding_idx - 1
    return count
