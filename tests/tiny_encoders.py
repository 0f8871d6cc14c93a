"""Tiny real dual encoders with random weights, saved as their users find them, and small real video files."""

from pathlib import Path

import av
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


TEXT = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 8,
}
ENCODERS = ("clip", "siglip", "siglip2")


def _tokenizer(length: int) -> transformers.PreTrainedTokenizerFast:
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["where is the red car"] * 4, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=length,
    )


def save_encoder(kind: str, folder: Path) -> Path:
    """A model of transformers' own class with its own processor, 32 x 32 pixels, random weights (seed 0)."""
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config={**TEXT, "max_position_embeddings": 77},
            vision_config={**VISION, "image_size": 32},
            projection_dim=16,
        )
        model = transformers.CLIPModel(config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor = transformers.CLIPProcessor(images, _tokenizer(77))
    elif kind == "siglip":
        config = transformers.SiglipConfig(
            text_config={**TEXT, "max_position_embeddings": 64}, vision_config={**VISION, "image_size": 32}
        )
        model = transformers.SiglipModel(config)
        images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
        processor = transformers.SiglipProcessor(images, _tokenizer(64))
    else:
        config = transformers.Siglip2Config(
            text_config={**TEXT, "max_position_embeddings": 64}, vision_config={**VISION, "num_patches": 16}
        )
        model = transformers.Siglip2Model(config)
        images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        processor = transformers.Siglip2Processor(images, _tokenizer(64))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def scenes(lengths=(20, 25, 15, 20), flash: int | None = 37, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (N, H, W, 3): textured scenes that differ in colour and layout; three bright frames from `flash` on."""
    rng = np.random.default_rng(3)
    colours = [(180, 40, 30), (30, 120, 60), (40, 60, 190), (200, 190, 60), (120, 40, 140)]
    frames = []
    for number, length in enumerate(lengths):
        scene = np.empty((height, width, 3), np.float64)
        scene[:] = colours[number % len(colours)]
        scene[:, : width // (number + 2)] *= 0.4
        for step in range(length):
            moved = scene.copy()
            moved[10:20, (2 * step) % (width - 10) :][:, :10] += 40
            frames.append(moved + rng.normal(0, 3, scene.shape))
    if flash is not None:
        for index in range(flash, flash + 3):
            frames[index][:] = 235
            frames[index][height // 4 : height // 2, width // 4 : width // 2] = (250, 20, 240)
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: int = 10, times: np.ndarray | None = None) -> Path:
    """Encode frames; `times` (N,) in seconds, rounded to milliseconds, make the frame rate variable."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000 if times is not None else fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts = round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A second of sound without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for start in range(0, 16000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
