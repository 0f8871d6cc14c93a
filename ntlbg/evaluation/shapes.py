"""Sizes of random-weight models that costs are measured with: a Qwen2-VL, and the dual encoder in front of it."""

from __future__ import annotations

import json
from pathlib import Path


SMALL = {
    "text": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "vision": {
        "depth": 16,
        "embed_dim": 768,
        "num_heads": 12,
        "mlp_ratio": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
    # CLIP ViT-B/32, the smallest dual encoder in common use.
    "clip_vision": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 32,
        "image_size": 224,
    },
    "side": 448,
    "dtype": "float32",
    "device": "cpu",
}
# Qwen2-VL-7B-Instruct's configuration, in its precision.
QWEN2_VL_7B = SMALL | {
    "text": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision": SMALL["vision"] | {"depth": 32, "embed_dim": 1280, "num_heads": 16},
    "side": 224,
    "dtype": "bfloat16",
}
SHAPES = {"small": SMALL, "small-224": SMALL | {"side": 224}, "qwen2-vl-7b": QWEN2_VL_7B}


def read_shape(name: str, device: str) -> dict:
    """
    One of `SHAPES`, or that of a JSON file with the fields of `SMALL`, on a device.

    Raises:
        OSError, ValueError: it is no name, and no such file.
    """
    shape = SHAPES[name] if name in SHAPES else json.loads(Path(name).read_text(encoding="utf-8"))
    return shape | {"device": device}


__all__ = ["SHAPES", "read_shape"]
