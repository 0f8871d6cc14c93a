"""For the suites over all families: a family's model, its processor and the base's own, and chats of real parts."""

from dataclasses import dataclass

import torch
from PIL import Image
from tiny_frames import FRAME_FAMILIES
from tiny_models import tiny_model
from tiny_parts import FAMILIES, moving_square, tiny_base_processor
from transformers import ProcessorMixin
from transformers.video_utils import VideoMetadata

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


ALL_FAMILIES = (*sorted(FAMILIES), *FRAME_FAMILIES)
QUESTION = "what is the colour of the thing?"
GREEDY = {"max_new_tokens": 8, "do_sample": False}
ALL = 64


@dataclass
class Family:
    """One family: `model` in front of a random-weight base, `ours` its processor, `base` the base's own."""

    name: str
    model: NTLBGForConditionalGeneration
    ours: NTLBGProcessor
    base: ProcessorMixin

    def groups(self, frames: int) -> int:
        return self.ours.video_processor.num_groups(frames)

    def bases_inputs(self, chats: list, videos: list, images: list | None = None) -> dict:
        """What the base's own processor makes of chats; `videos` flat, of one length where the base asks for that."""
        text = [self.base.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        counts = [len(video) for video in videos]
        metadata = [VideoMetadata(total_num_frames=n, fps=24.0, frames_indices=list(range(n))) for n in counts]
        given = {"videos": videos, "video_metadata": metadata, "do_sample_frames": False} if videos else {}
        return self.base(text=text, images=images, padding=True, return_tensors="pt", **given)

    def answer(self, inputs: dict, **options) -> torch.Tensor:
        """The new tokens (B, at most 8) of a greedy answer."""
        output = self.model.generate(**inputs, **GREEDY, **options)
        return output[:, inputs["input_ids"].shape[1] :]


def family_of(name: str, padding_side: str = "left", **config_kwargs) -> Family:
    base = tiny_base_processor(name, padding_side=padding_side)
    return Family(name, tiny_model(name, base.tokenizer, **config_kwargs), NTLBGProcessor.from_base(base), base)


def chat(question: str = QUESTION, videos: int = 1, images: int = 0) -> list[dict]:
    content = [{"type": "image"}] * images + [{"type": "video"}] * videos + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(moving_square(1, seed=seed)[0])
