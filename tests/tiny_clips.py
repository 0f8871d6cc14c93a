"""Tiny real video encoders with random weights, saved with their own processors as their users find them."""

from pathlib import Path

import torch
import transformers
from tiny_models import SMALL, tiny_base
from tiny_parts import tiny_base_processor

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


_TOWER = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "initializer_range": 0.2}
_PATCHES = {**_TOWER, "intermediate_size": 32, "image_size": 32}
# kind -> (prefix of its classes, fields of its configuration): clips of 32 x 32 pixels become 4 x 4 x 4 tokens
CLIP_CONFIGS = {
    "timesformer": ("Timesformer", {**_PATCHES, "num_frames": 4, "patch_size": 8}),
    "videomae": ("VideoMAE", {**_PATCHES, "num_frames": 8, "patch_size": 8}),
    "vivit": ("Vivit", {**_PATCHES, "num_frames": 8, "tubelet_size": [2, 8, 8]}),
    "vjepa2": (
        "VJEPA2",
        {
            **_TOWER,
            "crop_size": 32,
            "patch_size": 8,
            "frames_per_clip": 8,
            "pred_hidden_size": 24,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
    ),
}
GRID = (2, 2, 2)


def clip_encoder(kind: str, **fields):
    """A model of transformers' own class with random weights (seed 0), in evaluation mode."""
    prefix, settings = CLIP_CONFIGS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**{**settings, **fields})
    return transformers.AutoModel.from_config(config).eval()


def save_clip_encoder(kind: str, folder: Path) -> Path:
    """Encoder and processor in one folder, as on the Hub."""
    clip_encoder(kind).save_pretrained(folder)
    processor = getattr(transformers, f"{CLIP_CONFIGS[kind][0]}VideoProcessor")
    processor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def two_streams(
    family: str,
    folder: Path,
    kind: str = "videomae",
    trained: bool = True,
    scorer=None,
    scorer_processor=None,
    **config_kwargs,
):
    """An NTLBG model with a second stream, in evaluation mode, and its processor; `trained` says that its (random)
    projector is to be used."""
    save_clip_encoder(kind, folder)
    processor = NTLBGProcessor.from_base(
        tiny_base_processor(family, padding_side="left"),
        temporal_processor=str(folder),
        scorer_processor=scorer_processor,
    )
    base = tiny_base(family, processor.tokenizer)
    torch.manual_seed(1)
    model = NTLBGForConditionalGeneration.from_base(
        base,
        scorer=scorer,
        temporal=folder,
        config_kwargs={
            **SMALL,
            "temporal_grid": GRID,
            "temporal_trained": trained,
            "initializer_range": 0.2,
            **config_kwargs,
        },
    )
    return model.eval(), processor
