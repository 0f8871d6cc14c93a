"""Tiny random-weight models of the real base classes, and an NTLBG model in front of each."""

import torch
import transformers
from tiny_frames import FRAME_FAMILIES, frame_config

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration


CONFIG_CLASSES = {"qwen2_vl": "Qwen2VLConfig", "qwen2_5_vl": "Qwen2_5_VLConfig", "qwen3_vl": "Qwen3VLConfig"}
VISION = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
        "window_size": 112,
        "tokens_per_second": 2,
    },
    "qwen3_vl": {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    },
}
SMALL = {
    "selector_size": 16,
    "context_size": 16,
    "context_window": 5,
    "covariance_rank": 4,
    "time_frequencies": 4,
    "query_slots": 2,
}


def tiny_base(family: str, tokenizer, tie_word_embeddings: bool = False, seed: int = 0):
    """A random-weight base model of the family, in evaluation mode, whose answers depend on what it sees."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Large, so that greedy texts differ from prompt to prompt.
        "initializer_range": 0.2,
    }
    if family != "qwen3_vl":
        text.pop("head_dim")
    if family in FRAME_FAMILIES:
        config = frame_config(family, tokenizer, text, tie_word_embeddings)
    else:
        config = getattr(transformers, CONFIG_CLASSES[family])(
            text_config=text,
            vision_config={**VISION[family], "initializer_range": 0.2},
            tie_word_embeddings=tie_word_embeddings,
            **_qwen_ids(tokenizer),
        )
    torch.manual_seed(seed)
    return transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()


def _qwen_ids(tokenizer) -> dict:
    tokens = ("image", "image_pad"), ("video", "video_pad"), ("vision_start",) * 2, ("vision_end",) * 2
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in tokens}


def tiny_model(family: str, tokenizer, seed: int = 0, **config_kwargs) -> NTLBGForConditionalGeneration:
    """An untrained NTLBG model in front of `tiny_base`."""
    base = tiny_base(family, tokenizer, tie_word_embeddings=config_kwargs.pop("tie_word_embeddings", False), seed=seed)
    torch.manual_seed(seed + 1)
    return NTLBGForConditionalGeneration.from_base(base, config_kwargs={**SMALL, **config_kwargs}).eval()
