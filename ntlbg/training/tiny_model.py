"""The tiny base model: a real `Qwen2VLForConditionalGeneration` of about 1.5 M parameters, with tokenizer and
processor.

Frames are 56 pixels wide, patches 14, merged 2 x 2, two frames per group: 4 visual tokens per group of two seconds.
"""

import json

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX


FRAME = 56
PATCH = 14
MERGE = 2
GROUP_FRAMES = 2
GROUP_TOKENS = (FRAME // PATCH // MERGE) ** 2
HIDDEN = 128
EMBEDDING_STD = 0.15  # of words and, after the vision stage, of visual features: one scale for both

# Fields of the tiny NTLBG model's configuration. One candidate frame a second: a group is two seconds of video.
SELECTOR = {
    "num_representatives": 8,
    "candidate_fps": 1.0,
    "max_candidates": 768,
    "covariance_rank": 16,
    "selector_size": 96,
    "query_slots": 4,
    "context_size": 32,
    "context_window": 5,
    "time_frequencies": 8,
}

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# ChatML. The text parts of a turn go before its pictures and videos, in whatever order the message names them: a
# causal model that knows the question while it reads the frames learns to count and to order, one that does not hardly
# does.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(texts: list[str]) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer in which every word of `texts` is one token; all other text falls back to bytes."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: training stops when every word is whole
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    state = json.loads(raw.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(pair) for pair in state["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=32768,
    )


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """The stock processor of the family; square videos come out as 56 x 56 pixels, every frame given is kept."""
    size = {"shortest_edge": FRAME * FRAME, "longest_edge": FRAME * FRAME}
    common = {"size": size, "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": GROUP_FRAMES}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**common, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build_base(tokenizer: Qwen2Tokenizer) -> Qwen2VLForConditionalGeneration:
    """The model with fresh weights from torch's global seed; input and output embeddings are tied."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4]},
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": HIDDEN,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": GROUP_FRAMES,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.generation_config.do_sample = False
    return model


def to_patches(frames: torch.Tensor) -> torch.Tensor:
    """Frames of groups as the family's video processor flattens them.

    Args:
        frames: (G, 2, 56, 56, 3) uint8 RGB.

    Returns:
        (G, 16, 1176) float32: normalised patches, 2 x 2 neighbours in a row.
    """
    mean = torch.tensor(OPENAI_CLIP_MEAN) * 255
    std = torch.tensor(OPENAI_CLIP_STD) * 255
    pixels = ((frames.float() - mean) / std).permute(0, 1, 4, 2, 3)  # (G, 2, 3, 56, 56)
    side = FRAME // PATCH // MERGE
    pixels = pixels.reshape(-1, GROUP_FRAMES, 3, side, MERGE, PATCH, side, MERGE, PATCH)
    pixels = pixels.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return pixels.reshape(frames.shape[0], (FRAME // PATCH) ** 2, -1)


def encode_groups(visual: torch.nn.Module, patches: torch.Tensor) -> torch.Tensor:
    """The vision tower on many groups of one grid at once.

    The stock forward loops over the groups in Python; groups of one size fit one batched attention call. Same weights,
    same result (tests/test_tiny_base.py).

    Args:
        visual: the `visual` module of a Qwen2-VL model.
        patches: (G, 16, 1176), see `to_patches`.

    Returns:
        (G, 4, hidden) features, one row per merged token.
    """
    groups, length, _ = patches.shape
    heads = visual.config.num_heads
    side = FRAME // PATCH // MERGE
    h = torch.arange(FRAME // PATCH)
    rows = h[:, None].expand(-1, len(h)).reshape(side, MERGE, side, MERGE).transpose(1, 2).flatten()
    cols = h[None, :].expand(len(h), -1).reshape(side, MERGE, side, MERGE).transpose(1, 2).flatten()
    # The patch embedding is a convolution whose stride is its kernel: one matrix product, much faster on a CPU.
    x = patches @ visual.patch_embed.proj.weight.flatten(1).T
    cos, sin = visual.rotary_pos_emb(x, torch.stack([rows, cols], dim=-1))  # (16, head_dim) each
    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(x)).view(groups, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (G, heads, 16, head_dim)
        q, k = (z * cos + _rotate_half(z) * sin for z in (q, k))
        attended = torch.nn.functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        x = x + block.attn.proj(attended.transpose(1, 2).reshape(groups, length, -1))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x).view(groups, GROUP_TOKENS, -1)


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
