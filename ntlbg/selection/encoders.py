"""Any dual encoder of transformers (CLIP, SigLIP, SigLIP 2, ...) as a judge of frames against a query.

Shapes: N frames, d embedding width. Embeddings are float32 on the CPU and not normalised.
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
from ntlbg.processors.dual_encoder_ntlbg import picture_inputs, text_inputs


DEFAULT_ENCODER = "google/siglip2-base-patch16-224"

# How transformers says that a model cannot be loaded. OSError: an unreachable Hub, a wrong name, an incomplete folder;
# ValueError and KeyError: an unknown architecture; then weights that are cut off, a config of wrong types, and weights
# of another size than the config says.
LOADING_ERRORS = (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError, RuntimeError)


class EncoderError(InputError):
    """An encoder cannot be had or is not a dual encoder; one sentence: what is wrong, what came, how to fix it."""


class DualEncoder:
    """A dual encoder and its processor, loaded once.

    Args:
        model: a transformers model with `get_image_features` and `get_text_features`.
        processor: its processor (tokenizer and image processor).
        name: how it is called in reports.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, name: str):
        for method in ("get_image_features", "get_text_features"):
            if not callable(getattr(model, method, None)):
                raise EncoderError(
                    f"{name} ({type(model).__name__}) is no dual encoder: it has no {method}; give one such as "
                    f"{DEFAULT_ENCODER} or openai/clip-vit-base-patch32"
                )
        self.model = model.eval()
        self.processor = processor
        # SigLIP 2's tokenizer does not know how much its text tower reads.
        reads = int(model.config.get_text_config().max_position_embeddings)
        processor.tokenizer.model_max_length = min(reads, processor.tokenizer.model_max_length)
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
        return cls(model.to(device), processor, str(name))

    @property
    def input_side(self) -> int:
        """Side in pixels of the pictures the image tower looks at; larger ones are scaled down by the processor."""
        vision = self.model.config.vision_config.to_dict()
        if "image_size" in vision:
            size = vision["image_size"]
            return int(max(size) if isinstance(size, list | tuple) else size)
        # SigLIP 2 (NaFlex) keeps the aspect ratio within a budget of patches instead.
        return round(vision["patch_size"] * vision["num_patches"] ** 0.5)

    @torch.inference_mode()
    def encode_images(self, frames: np.ndarray, batch_size: int = 32, progress: bool = False) -> torch.Tensor:
        """Embed frames, uint8 (N, H, W, 3) RGB, `batch_size` at a time -> (N, d)."""
        embedded = []
        starts = range(0, len(frames), batch_size)
        for start in tqdm(starts, desc="encode", unit="batch", delay=1.0, leave=False, disable=not progress):
            inputs = picture_inputs(self.processor, frames[start : start + batch_size])
            embedded.append(_embedding(self.model.get_image_features(**self._placed(inputs))))
        return torch.cat(embedded)

    @torch.inference_mode()
    def encode_text(self, text: str) -> tuple[torch.Tensor, int]:
        """Embed one text.

        Returns:
            the embedding (d,), and how many tokens were cut off because the text was longer than the encoder reads.
        """
        inputs, cut = text_inputs(self.processor, text)
        return _embedding(self.model.get_text_features(**self._placed(inputs)))[0], cut

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


def _embedding(output: Any) -> torch.Tensor:
    # transformers 5 returns an output object whose pooler_output is the projected embedding; plain tensors come from
    # older remote code.
    tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return tensor.float().cpu()
