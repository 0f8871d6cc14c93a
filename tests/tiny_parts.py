"""Small real parts for the tests: a byte-level tokenizer and the base processors of the three families.

Nothing is downloaded. The tokenizer knows every byte, a few dozen merges and Qwen's special tokens, so any text
survives a round trip; the processors are transformers' own classes with small pictures (28 or 32 pixels per token).
"""

import numpy as np
import transformers
from tiny_frames import FRAME_FAMILIES, MARKERS, frame_processor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# ChatML with the vision markers of the Qwen-VL family; the answer is marked for `return_assistant_tokens_mask`.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% elif message['content'] is string %}{{ message['content'] + '<|im_end|>\n' }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# family -> (processor class, video processor class, patch size, spatial side of one token in pixels)
FAMILIES = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLVideoProcessor", 14),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor", 14),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor", 16),
}


def tiny_tokenizer(padding_side: str = "right", markers: dict | None = None):
    """A deterministic byte-level BPE tokenizer of about 300 entries with Qwen's special tokens and `markers` (by the
    name of their attribute); pads with `<|endoftext|>` on `padding_side`."""
    special_tokens = [*SPECIAL_TOKENS, *(markers or {}).values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is the colour of the thing that moves in the video?"] * 4, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special_tokens[1:],
        model_specific_special_tokens=markers,
        padding_side=padding_side,
        model_max_length=32768,
    )


def tiny_base_processor(family: str, padding_side: str = "right", max_tokens_per_frame: int = 4):
    """transformers' own processor of `family` (of `FAMILIES` or `FRAME_FAMILIES`) at a tiny picture size.

    Each group of two frames becomes at most about `max_tokens_per_frame` tokens for Qwen2-VL and Qwen2.5-VL; Qwen3-VL
    spends one budget on the whole video, which is set so that 64 frames get as much."""
    if family in FRAME_FAMILIES:
        return frame_processor(family, tiny_tokenizer(padding_side, MARKERS))
    processor_class, video_processor_class, patch_size = FAMILIES[family]
    token_pixels = (2 * patch_size) ** 2
    image_size = {"shortest_edge": token_pixels, "longest_edge": max_tokens_per_frame * token_pixels}
    video_size = image_size
    if family == "qwen3_vl":
        video_size = {"shortest_edge": token_pixels, "longest_edge": 64 * max_tokens_per_frame * token_pixels}
    video_processor = getattr(transformers, video_processor_class)(
        size=video_size, patch_size=patch_size, cap_pixels_per_frame=False
    )
    image_processor = transformers.Qwen2VLImageProcessor(size=image_size, patch_size=patch_size)
    return getattr(transformers, processor_class)(
        image_processor=image_processor,
        tokenizer=tiny_tokenizer(padding_side),
        video_processor=video_processor,
        chat_template=CHAT_TEMPLATE,
    )


def moving_square(num_frames: int = 8, height: int = 56, width: int = 84, seed: int = 0) -> np.ndarray:
    """uint8 frames (N, H, W, 3): noise background with a bright square that moves one step per frame, so that no two
    frames are equal."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 96, (1, height, width, 3), dtype=np.uint8), num_frames, axis=0)
    side = max(4, height // 6)
    for index in range(num_frames):
        left = (5 * index + 3 * (index // 7)) % (width - side)
        top = (3 * index) % (height - side)
        frames[index, top : top + side, left : left + side] = (255, 40 + 7 * (index % 30), 200 - 5 * (index % 40))
    return frames
