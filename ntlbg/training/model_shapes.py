"""The sizes of a base model, from its configuration alone: no weights, no download.

Counts of parameters are closed formulas over the layers of transformers' Qwen2-VL, Qwen2.5-VL and Qwen3-VL classes.
tests/test_memory.py holds them against those classes on the meta device, and against the totals that the Hub prints
for the published checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ntlbg.errors import InputError, first_sentence


@dataclass(frozen=True)
class VisionShape:
    """The vision tower: `depth` blocks of width `width` over patches of `patch` pixels, `frames_per_group` frames at a
    time; `merge` x `merge` patches become one token of width `out`."""

    depth: int
    width: int
    intermediate: int
    heads: int
    patch: int
    frames_per_group: int
    merge: int
    out: int
    positions: int = 0
    deepstack: int = 0

    @property
    def pixels_per_patch(self) -> int:
        """Values of one patch: three channels of a square through the frames of a group."""
        return 3 * self.frames_per_group * self.patch**2


@dataclass(frozen=True)
class ModelShape:
    """A base model of one of the supported families ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    vision: VisionShape

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """(in, out) of the seven linear maps of a decoder layer: q, k, v, o, gate, up, down."""
        hidden, inner, query, kv = self.hidden, self.intermediate, self.query_width, self.kv_width
        attention = [(hidden, query), (hidden, kv), (hidden, kv), (query, hidden)]
        return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer."""
        linear = sum(rows * columns for rows, columns in self.linear_shapes)
        # Qwen2 and Qwen2.5 have biases on q, k, v; Qwen3 has norms of the heads instead.
        extra = 2 * self.head_dim if self.family == "qwen3_vl" else self.query_width + 2 * self.kv_width
        return linear + extra + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def head_parameters(self) -> int:
        """Of the output layer beside the embeddings: none where they are tied."""
        return 0 if self.tied else self.embedding_parameters

    @property
    def language_parameters(self) -> int:
        return self.embedding_parameters + self.head_parameters + self.layers * self.layer_parameters + self.hidden

    @property
    def merger_parameters(self) -> int:
        """Of what turns patches into tokens, Qwen3-VL's for inner layers among it."""
        vision = self.vision
        wide = vision.width * vision.merge**2
        maps = wide * wide + wide + wide * vision.out + vision.out
        norm = vision.width if self.family == "qwen2_5_vl" else 2 * vision.width
        return maps + norm + vision.deepstack * (maps + 2 * wide)

    @property
    def block_parameters(self) -> int:
        """Of one block of the vision tower."""
        vision = self.vision
        attention = 3 * vision.width**2 + 3 * vision.width + vision.width**2 + vision.width
        if self.family == "qwen2_5_vl":
            mlp = 3 * vision.width * vision.intermediate + 2 * vision.intermediate + vision.width
            return attention + mlp + 2 * vision.width
        mlp = 2 * vision.width * vision.intermediate + vision.intermediate + vision.width
        return attention + mlp + 4 * vision.width

    @property
    def vision_parameters(self) -> int:
        vision = self.vision
        patches = vision.pixels_per_patch * vision.width + (vision.width if self.family == "qwen3_vl" else 0)
        blocks = vision.depth * self.block_parameters
        return patches + vision.positions * vision.width + blocks + self.merger_parameters

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision_parameters

    def tokens_per_group(self, height: int, width: int) -> int:
        """Visual tokens of a group of frames of `height` x `width` pixels, rounded to whole tokens as the processor
        does."""
        side = self.vision.patch * self.vision.merge
        return max(1, round(height / side)) * max(1, round(width / side))


def _qwen2(hidden, intermediate, heads, kv_heads, vocabulary, tied) -> ModelShape:
    vision = VisionShape(32, 1280, 5120, 16, 14, 2, 2, hidden)
    return ModelShape("qwen2_vl", hidden, intermediate, 28, heads, kv_heads, 128, vocabulary, tied, vision)


def _qwen25(hidden, intermediate, layers, heads, kv_heads, vocabulary, tied) -> ModelShape:
    vision = VisionShape(32, 1280, 3420, 16, 14, 2, 2, hidden)
    return ModelShape("qwen2_5_vl", hidden, intermediate, layers, heads, kv_heads, 128, vocabulary, tied, vision)


def _qwen3(hidden, intermediate, layers, heads, tied, vision) -> ModelShape:
    return ModelShape("qwen3_vl", hidden, intermediate, layers, heads, 8, 128, 151936, tied, vision)


def _qwen3_vision(depth, width, intermediate, out) -> VisionShape:
    return VisionShape(depth, width, intermediate, 16, 16, 2, 2, out, positions=2304, deepstack=3)


# The numbers of the config.json files at huggingface.co/Qwen/<name>.
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2(1536, 8960, 12, 2, 151936, True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2(3584, 18944, 28, 4, 152064, False),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen25(2048, 11008, 36, 16, 2, 151936, True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen25(3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3(2048, 6144, 28, 16, True, _qwen3_vision(24, 1024, 4096, 2048)),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3(2560, 9728, 36, 32, True, _qwen3_vision(24, 1024, 4096, 2560)),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(4096, 12288, 36, 32, False, _qwen3_vision(27, 1152, 4304, 4096)),
}


def shape_of_config(config) -> ModelShape:
    """The shape of a transformers configuration: a base's, or an `NTLBGConfig` around it.

    Raises:
        InputError: the family is not supported, or the model has a second stream.
    """
    if config.model_type == "ntlbg" and config.temporal_config is not None:
        raise InputError("the model has a second stream (`temporal_config`), for whose memory there are no formulas")
    config = config.base_config if config.model_type == "ntlbg" else config
    family = config.model_type
    if family not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        raise InputError(
            f"a model of type {family!r} has no formulas here; choose one of type qwen2_vl, qwen2_5_vl or qwen3_vl"
        )
    text, vision = config.text_config, config.vision_config
    width = vision.embed_dim if family == "qwen2_vl" else vision.hidden_size
    third = family == "qwen3_vl"
    tower = VisionShape(
        vision.depth,
        width,
        int(width * vision.mlp_ratio) if family == "qwen2_vl" else vision.intermediate_size,
        vision.num_heads,
        vision.patch_size,
        vision.temporal_patch_size,
        vision.spatial_merge_size,
        vision.hidden_size if family == "qwen2_vl" else vision.out_hidden_size,
        positions=vision.num_position_embeddings if third else 0,
        deepstack=len(vision.deepstack_visual_indexes) if third else 0,
    )
    return ModelShape(
        family,
        text.hidden_size,
        text.intermediate_size,
        text.num_hidden_layers,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim if third else text.hidden_size // text.num_attention_heads,
        text.vocab_size,
        bool(config.tie_word_embeddings),
        tower,
    )


def shape_of(model: str) -> ModelShape:
    """The shape of a published model by its Hub name, or of a config.json, or of the folder it lies in.

    Raises:
        InputError: neither, or the file is no configuration of a supported family.
    """
    by_name = {name.lower(): shape for name, shape in PUBLISHED.items()}
    by_name |= {name.split("/")[1]: shape for name, shape in by_name.items()}
    by_name |= {name.removesuffix("-instruct"): shape for name, shape in by_name.items()}
    if model.lower() in by_name:
        return by_name[model.lower()]
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"the model {model!r} is neither a folder or config.json nor one whose shape is built in; give a path, or "
            f"one of {', '.join(PUBLISHED)}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read as JSON ({first_sentence(error)})") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise InputError(f"{str(path)!r} is no model configuration: it has no `model_type`")

    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    from ntlbg.configuration.configuration_ntlbg import NTLBGConfig  # noqa: F401  registers "ntlbg"

    try:
        kind = content.pop("model_type")
        return shape_of_config(AutoConfig.for_model(kind, **content))
    except (ValueError, TypeError, AttributeError, KeyError, StrictDataclassError) as error:
        raise InputError(f"{str(path)!r} is no configuration of a model ({first_sentence(error)})") from error
