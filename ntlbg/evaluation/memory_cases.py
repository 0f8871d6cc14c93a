"""The configurations whose memory is measured: 23 to 544 million parameters, each stage, each measure that
saves. `HELD_OUT` were first measured when the formulas were settled; nothing was corrected after them."""

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


def _qwen2_vision(depth, width, out, heads=None) -> dict:
    heads = heads or width // 64
    return {"depth": depth, "embed_dim": width, "num_heads": heads, "hidden_size": out, "mlp_ratio": 4}


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


def _case(name, family, text, vision, frames, side, representatives, text_tokens, tied=False, **job) -> dict:
    """`frames` of `side` x `side` pixels, of which `representatives` groups are kept beside `text_tokens`."""
    job = {"frames": frames, "height": side, "width": side, "representatives": representatives, **job}
    job = {**job, "text_tokens": text_tokens}
    return {"name": name, "family": family, "text": text, "vision": vision, "tied": tied, "job": job}


_TINY = _text(384, 1024, 6, 6, 2, 8000)
_SMALL = _text(512, 1408, 8, 8, 2, 16000)
_MIDDLE = _text(768, 2048, 12, 12, 4, 16000)
_LARGE = _text(1024, 2816, 16, 16, 4, 32000)
_QWEN2_TINY = _qwen2_vision(4, 256, 384)
_QWEN2_SMALL = _qwen2_vision(4, 256, 512)
_QWEN2_MIDDLE = _qwen2_vision(6, 384, 768)
_QWEN3_LARGE = _qwen3_vision(6, 384, 1536, 1024)

CASES = [
    _case(
        "selection, cached", "qwen2_vl", _TINY, _QWEN2_TINY, 256, 112, 16, 64, stage="selection", cached_features=True
    ),
    _case(
        "selection, many groups",
        "qwen2_5_vl",
        _SMALL,
        _qwen25_vision(4, 256, 684, 512),
        512,
        112,
        32,
        64,
        stage="selection",
    ),
    _case("full, all kept", "qwen2_vl", _SMALL, _QWEN2_SMALL, 64, 112, 16, 64),
    _case("LoRA, all kept", "qwen2_vl", _MIDDLE, _QWEN2_MIDDLE, 128, 140, 32, 128, lora_r=16),
    _case("LoRA, checkpointing", "qwen2_vl", _MIDDLE, _QWEN2_MIDDLE, 128, 140, 32, 128, lora_r=16, checkpointing=True),
    _case(
        "LoRA, cached, checkpointing",
        "qwen2_vl",
        _MIDDLE,
        _QWEN2_MIDDLE,
        1024,
        140,
        16,
        128,
        lora_r=16,
        checkpointing=True,
        cached_features=True,
    ),
    _case(
        "LoRA, Qwen's vocabulary",
        "qwen2_5_vl",
        _text(896, 2432, 8, 14, 2, 151936),
        _qwen25_vision(4, 384, 1024, 896),
        128,
        112,
        32,
        128,
        tied=True,
        lora_r=8,
        checkpointing=True,
    ),
    _case(
        "LoRA, eager, batch of 2",
        "qwen2_vl",
        _MIDDLE,
        _QWEN2_MIDDLE,
        64,
        140,
        24,
        96,
        lora_r=16,
        batch=2,
        attention="eager",
    ),
    _case("end to end", "qwen2_vl", _SMALL, _qwen2_vision(8, 512, 512), 96, 112, 16, 64, stage="end_to_end"),
    _case("full, Qwen3-VL, checkpointing", "qwen3_vl", _LARGE, _QWEN3_LARGE, 32, 128, 8, 48, checkpointing=True),
]

HELD_OUT = [
    _case(
        "full, tied, accumulation",
        "qwen2_5_vl",
        _MIDDLE,
        _qwen25_vision(6, 384, 1024, 768),
        32,
        112,
        8,
        80,
        tied=True,
        accumulation=2,
    ),
    _case(
        "LoRA, Qwen3-VL, batch of 2",
        "qwen3_vl",
        _SMALL,
        _qwen3_vision(6, 384, 1536, 512),
        64,
        128,
        24,
        96,
        lora_r=8,
        batch=2,
    ),
    _case(
        "end to end, checkpointing",
        "qwen2_5_vl",
        _TINY,
        _qwen25_vision(8, 512, 1368, 384),
        96,
        112,
        8,
        64,
        stage="end_to_end",
        checkpointing=True,
    ),
    _case(
        "LoRA, widths of Qwen2-VL-2B, 4 layers",
        "qwen2_vl",
        _text(1536, 8960, 4, 12, 2, 151936),
        _qwen2_vision(4, 1280, 1536, 16),
        32,
        112,
        8,
        64,
        tied=True,
        lora_r=16,
        checkpointing=True,
    ),
]
