"""Further tiny real dual encoders with random weights, beside those of `tiny_encoders`."""

from pathlib import Path

import torch
import transformers
from tiny_encoders import TEXT, VISION, save_encoder
from tiny_encoders import _tokenizer as tokenizer


PIXELS = {"height": 32, "width": 32}
CLIP_TEXT = {**TEXT, "max_position_embeddings": 77}
BERT = {name: value for name, value in TEXT.items() if name not in ("bos_token_id", "eos_token_id")}
FRAMES = 4  # of one clip, for the encoders of videos


def _crop() -> dict:
    return {"size": {"shortest_edge": 32}, "crop_size": PIXELS}


def _metaclip_2():
    config = transformers.MetaClip2Config(
        text_config=CLIP_TEXT, vision_config={**VISION, "image_size": 32}, projection_dim=16
    )
    images = transformers.CLIPImageProcessor(**_crop())
    return transformers.MetaClip2Model(config), transformers.CLIPProcessor(images, tokenizer(77))


def _xclip():
    clip = {"mit_hidden_size": 16, "mit_intermediate_size": 32, "mit_num_attention_heads": 4, "num_frames": FRAMES}
    config = transformers.XCLIPConfig(
        text_config=CLIP_TEXT,
        vision_config={**VISION, "image_size": 32, **clip},
        projection_dim=16,
        prompt_num_attention_heads=4,
    )
    images = transformers.VideoMAEImageProcessor(**_crop())
    return transformers.XCLIPModel(config), transformers.XCLIPProcessor(images, tokenizer(77))


def _videoprism():
    text = {name: value for name, value in BERT.items() if name != "pad_token_id"}
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    vision = {name: value for name, value in VISION.items() if name not in ("patch_size", "num_hidden_layers")}
    config = transformers.VideoPrismConfig(
        text_config={**text, "max_position_embeddings": 64},
        vision_config={**vision, **layers, "tubelet_size": [1, 8, 8], "image_size": 32, "num_frames": FRAMES},
    )
    videos = transformers.LlavaOnevisionVideoProcessor(size=PIXELS, do_normalize=False)
    return transformers.VideoPrismClipModel(config), transformers.VideoPrismProcessor(videos, tokenizer(64))


def _altclip():
    # Its text tower is of RoBERTa's kind: 66 positions are 65 tokens, for the first is that of padding (0).
    config = transformers.AltCLIPConfig(
        text_config={**BERT, "max_position_embeddings": 66, "project_dim": 32},
        vision_config={**VISION, "image_size": 32},
        projection_dim=16,
    )
    images = transformers.CLIPImageProcessor(**_crop())
    return transformers.AltCLIPModel(config), transformers.AltCLIPProcessor(images, tokenizer(int(1e30)))


def _align():
    vision = {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 32}
    config = transformers.AlignConfig(
        text_config={**BERT, "max_position_embeddings": 64}, vision_config=vision, projection_dim=32
    )
    images = transformers.EfficientNetImageProcessor(size=PIXELS)
    return transformers.AlignModel(config), transformers.AlignProcessor(images, tokenizer(64))


def _chinese_clip():
    config = transformers.ChineseCLIPConfig(
        text_config={**BERT, "max_position_embeddings": 64},
        vision_config={**VISION, "image_size": 32},
        projection_dim=16,
    )
    images = transformers.ChineseCLIPImageProcessor(size=PIXELS, do_center_crop=False)
    return transformers.ChineseCLIPModel(config), transformers.ChineseCLIPProcessor(images, tokenizer(64))


def _clipseg():
    config = transformers.CLIPSegConfig(
        text_config=CLIP_TEXT, vision_config={**VISION, "image_size": 32}, projection_dim=16
    )
    images = transformers.ViTImageProcessor(size={"height": 48, "width": 48})
    return transformers.CLIPSegModel(config), transformers.CLIPSegProcessor(images, tokenizer(77))


def _flava():
    """No dual encoder in our sense: one embedding per patch and per token."""
    joint = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.FlavaConfig(
        text_config={**BERT, "max_position_embeddings": 64},
        image_config={**VISION, "image_size": 32},
        multimodal_config=joint,
        image_codebook_config={"hidden_size": 8, "num_groups": 1, "vocab_size": 8},
        hidden_size=32,
        projection_dim=16,
    )
    images = transformers.FlavaImageProcessor(size=PIXELS, crop_size=PIXELS)
    return transformers.FlavaModel(config), transformers.FlavaProcessor(images, tokenizer(64))


def _narrow_align():
    """A broken one: pictures of 32 numbers, texts of 16."""
    model, processor = _align()
    config = transformers.AlignConfig.from_dict({**model.config.to_dict(), "projection_dim": 16})
    return transformers.AlignModel(config), processor


MAKERS = {
    "metaclip_2": _metaclip_2,
    "xclip": _xclip,
    "videoprism": _videoprism,
    "altclip": _altclip,
    "align": _align,
    "chinese_clip": _chinese_clip,
    "clipseg": _clipseg,
}
REFUSED = {"flava": _flava, "narrow align": _narrow_align}
VIDEO_ENCODERS = ("xclip", "videoprism")


def save_any(kind: str, folder: Path) -> Path:
    """A model of transformers' own class with its own processor, 32 x 32 pixels, random weights (seed 0)."""
    makers = {**MAKERS, **REFUSED}
    if kind not in makers:
        return save_encoder(kind, folder)
    torch.manual_seed(0)
    model, processor = makers[kind]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
