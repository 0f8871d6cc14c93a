"""The configurations whose memory is measured: 50 to 600 million parameters, each stage, each measure that saves."""

from __future__ import annotations


def _text(hidden, intermediate, layers, heads, kv_heads, vocabulary) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


def _qwen2_vision(depth, width, out) -> dict:
    return {"depth": depth, "embed_dim": width, "num_heads": width // 64, "hidden_size": out, "mlp_ratio": 4}


def _qwen25_vision(depth, width, intermediate, out) -> dict:
    return {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_heads": width // 64,
        "out_hidden_size": out,
        "fullatt_block_indexes": [depth - 1],
    }


def _qwen3_vision(depth, width, intermediate, out) -> dict:
    return {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_heads": width // 64,
        "out_hidden_size": out,
        "deepstack_visual_indexes": [1, 2, 3],
    }


def _case(name, family, text, vision, tied=False, **job) -> dict:
    return {"name": name, "family": family, "text": text, "vision": vision, "tied": tied, "job": job}


_SMALL = _text(512, 1408, 8, 8, 2, 16000)
_MIDDLE = _text(768, 2048, 12, 12, 4, 16000)
_LARGE = _text(1024, 2816, 16, 16, 4, 32000)

CASES = [
    _case(
        "full, everything kept",
        "qwen2_vl",
        _SMALL,
        _qwen2_vision(4, 256, 512),
        frames=64,
        height=112,
        width=112,
        representatives=16,
        text_tokens=64,
    ),
    _case(
        "selection stage, many groups",
        "qwen2_5_vl",
        _SMALL,
        _qwen25_vision(4, 256, 684, 512),
        stage="selection",
        frames=512,
        height=112,
        width=112,
        representatives=32,
        text_tokens=64,
    ),
    _case(
        "LoRA, everything kept",
        "qwen2_vl",
        _MIDDLE,
        _qwen2_vision(6, 384, 768),
        lora_r=16,
        frames=128,
        height=140,
        width=140,
        representatives=32,
        text_tokens=128,
    ),
    _case(
        "LoRA, checkpointing",
        "qwen2_vl",
        _MIDDLE,
        _qwen2_vision(6, 384, 768),
        lora_r=16,
        frames=128,
        height=140,
        width=140,
        representatives=32,
        text_tokens=128,
        checkpointing=True,
    ),
    _case(
        "LoRA, cached features, many groups",
        "qwen2_vl",
        _MIDDLE,
        _qwen2_vision(6, 384, 768),
        lora_r=16,
        frames=1024,
        height=140,
        width=140,
        representatives=16,
        text_tokens=128,
        checkpointing=True,
        cached_features=True,
    ),
    _case(
        "LoRA, real vocabulary",
        "qwen2_5_vl",
        _text(896, 2432, 8, 14, 2, 151936),
        _qwen25_vision(4, 384, 1024, 896),
        tied=True,
        lora_r=8,
        frames=128,
        height=112,
        width=112,
        representatives=32,
        text_tokens=128,
        checkpointing=True,
    ),
    _case(
        "LoRA, eager attention, batch 2",
        "qwen2_vl",
        _MIDDLE,
        _qwen2_vision(6, 384, 768),
        lora_r=16,
        frames=64,
        height=140,
        width=140,
        representatives=24,
        text_tokens=96,
        batch=2,
        attention="eager",
    ),
    _case(
        "end to end, tower trained",
        "qwen2_vl",
        _SMALL,
        _qwen2_vision(8, 512, 512),
        stage="end_to_end",
        frames=96,
        height=112,
        width=112,
        representatives=16,
        text_tokens=64,
    ),
    _case(
        "full, Qwen3-VL, checkpointing",
        "qwen3_vl",
        _LARGE,
        _qwen3_vision(6, 384, 1536, 1024),
        frames=32,
        height=128,
        width=128,
        representatives=8,
        text_tokens=48,
        checkpointing=True,
    ),
    _case(
        "full, accumulation, 600 million",
        "qwen2_vl",
        _text(1536, 4096, 20, 12, 4, 32000),
        _qwen2_vision(6, 512, 1536),
        frames=16,
        height=84,
        width=84,
        representatives=4,
        text_tokens=24,
        checkpointing=True,
        accumulation=2,
    ),
]
