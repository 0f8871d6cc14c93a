"""Stage 1 of the tiny base: the vision tower learns colour, shape, place and background of frames out of real mp4
files.

Also the bridge from videos to frozen features (stage 2).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ntlbg.data.world import BACKGROUNDS, COLORS, SHAPES, Event, Scene, VideoSpec, draw_distractor
from ntlbg.data.world_video import round_trip
from ntlbg.training.tiny_model import EMBEDDING_STD, FRAME, GROUP_FRAMES, HIDDEN, encode_groups, to_patches


def dense_video(seed: int, duration: int = 256, withheld: frozenset[tuple[str, str]] = frozenset()) -> VideoSpec:
    """A video packed with events and scene changes, made for learning to see, not for asking: 8 s scenes, short
    gaps. No (colour, shape) pair that is withheld is shown.
    """
    rng = np.random.default_rng([13, seed])
    scenes = tuple(
        Scene(s, min(s + 8, duration), BACKGROUNDS[rng.integers(len(BACKGROUNDS))], int(rng.integers(2**31)))
        for s in range(0, duration, 8)
    )
    events, clock = [], int(rng.integers(4))
    while clock + 2 <= duration:
        end = min(clock + int(rng.integers(2, 4)), duration)
        radius = rng.uniform(0.19, 0.30)
        x, y = rng.uniform(radius + 0.02, 0.98 - radius, size=2)
        color, shape = _draw_pair(rng, withheld)
        events.append(
            Event(
                clock,
                end,
                color,
                shape,
                *map(float, (x, y, radius)),
                angle=float(rng.uniform(-0.22, 0.22)),
                hue=float(rng.uniform(-0.016, 0.016)),
                value=float(rng.uniform(-0.12, 0.06)),
            )
        )
        clock = end + int(rng.choice((2, 2, 2, 3, 4)))
    return VideoSpec(seed, duration, scenes, tuple(events), tuple(draw_distractor(rng) for _ in range(4)))


def _draw_pair(rng: np.random.Generator, withheld: frozenset[tuple[str, str]]) -> tuple[str, str]:
    while True:
        pair = COLORS[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
        if pair not in withheld:
            return pair


def shrink(frames: np.ndarray, mode: str = "bicubic") -> torch.Tensor:
    """(N, S, S, 3) uint8 frames -> (N, 56, 56, 3) uint8, antialiased, as the video processor resizes them."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if mode == "area":
        small = F.interpolate(planes.float(), size=(FRAME, FRAME), mode="area").round().to(torch.uint8)
    else:
        small = F.interpolate(planes, size=(FRAME, FRAME), mode=mode, antialias=True)
    return small.permute(0, 2, 3, 1).contiguous()


def filmed_groups(spec: VideoSpec, rng: np.random.Generator) -> torch.Tensor:
    """The groups of one video after a real h264 round trip: (T, 2, 56, 56, 3) uint8. Size, quality and resize vary."""
    size = int(rng.choice((112, 112, 112, 112, 168, 224)))
    frames = round_trip(spec, size=size, crf=int(rng.integers(18, 31)))
    small = shrink(frames, str(rng.choice(("bicubic", "bicubic", "bilinear", "area"))))
    return small.view(-1, GROUP_FRAMES, FRAME, FRAME, 3)


def group_labels(spec: VideoSpec) -> tuple[np.ndarray, np.ndarray]:
    """What each group of two seconds shows.

    Returns:
        labels: (T, 3) int64: colour (8 = no object), shape (6 = no object), background.
        places: (T, 2) float32: centre of the object, NaN without one.
    """
    total = spec.duration // GROUP_FRAMES
    labels = np.empty((total, 3), dtype=np.int64)
    labels[:, 0], labels[:, 1] = len(COLORS), len(SHAPES)
    places = np.full((total, 2), np.nan, dtype=np.float32)
    for scene in spec.scenes:
        labels[scene.start // GROUP_FRAMES : scene.end // GROUP_FRAMES, 2] = BACKGROUNDS.index(scene.background)
    for event in spec.events:
        seen = slice(event.start // GROUP_FRAMES, (event.end - 1) // GROUP_FRAMES + 1)
        labels[seen, 0], labels[seen, 1] = COLORS.index(event.color), SHAPES.index(event.shape)
        places[seen] = event.x, event.y
    return labels, places


class VisionHeads(nn.Module):
    """Throw-away linear heads on every merged token: colour, shape, background, place."""

    def __init__(self):
        super().__init__()
        self.sizes = (len(COLORS) + 1, len(SHAPES) + 1, len(BACKGROUNDS))
        self.linear = nn.Linear(HIDDEN, sum(self.sizes) + 2)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(G, 4, hidden) -> colour, shape, background logits (G, 4, n) and places (G, 4, 2)."""
        return self.linear(features).split((*self.sizes, 2), dim=-1)


def vision_loss(heads: VisionHeads, features: torch.Tensor, labels: torch.Tensor, places: torch.Tensor):
    """Mean loss over groups and tokens, and the accuracies (3,) of the token-averaged logits."""
    *logits, place = heads(features)
    tokens = features.shape[1]
    loss = sum(F.cross_entropy(z.flatten(0, 1), labels[:, i].repeat_interleave(tokens)) for i, z in enumerate(logits))
    there = ~places.isnan().any(-1)
    if there.any():
        loss = loss + 10.0 * F.mse_loss(place[there], places[there, None].expand(-1, tokens, -1))
    hits = torch.stack([(z.mean(1).argmax(-1) == labels[:, i]).float().mean() for i, z in enumerate(logits)])
    return loss, hits.detach()


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable hidden matrices (for Muon) and the rest (for AdamW): embeddings, convolutions, norms, biases."""
    matrices, others = [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = parameter.ndim == 2 and "embed_tokens" not in name and "linear" not in name
        (matrices if hidden else others).append(parameter)
    return matrices, others


def build_optimizers(modules: list[nn.Module], lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW for the rest."""
    matrices, others = [], []
    for module in modules:
        a, b = split_parameters(module)
        matrices += a
        others += b
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def schedule(step: int, steps: int, warmup: int = 50) -> float:
    """Linear warm-up (of a tenth of the steps at most), flat, then a linear fall to 2 % over the last 40 %."""
    warmup = min(warmup, max(1, steps // 10))
    fall = min(1.0, (steps - step) / (0.4 * steps))
    return min(1.0, (step + 1) / warmup) * max(fall, 0.02)


def train_vision(
    visual: nn.Module,
    *,
    videos: int,
    steps: int,
    batch: int = 256,
    seed: int = 0,
    withheld: frozenset[tuple[str, str]] = frozenset(),
) -> list[float]:
    """Train the tower on `videos` dense videos; then fold centring and scaling of the features into its last layer.

    Returns:
        The losses, one per step.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([17, seed])
    bank, labels, places = [], [], []
    for index in tqdm(range(videos), desc="vision: filming"):
        spec = dense_video(index, withheld=withheld)
        bank.append(filmed_groups(spec, rng))
        found = group_labels(spec)
        labels.append(torch.from_numpy(found[0]))
        places.append(torch.from_numpy(found[1]))
    bank, labels, places = torch.cat(bank), torch.cat(labels), torch.cat(places)

    heads = VisionHeads()
    optimizers = build_optimizers([visual, heads], lr=3e-3, adam_lr=2e-3)
    base_lrs = [[group["lr"] for group in opt.param_groups] for opt in optimizers]
    losses, order = [], torch.empty(0, dtype=torch.long)
    bar = tqdm(range(steps), desc="vision: training", mininterval=2)
    for step in bar:
        if len(order) < batch:
            order = torch.randperm(len(bank))
        pick, order = order[:batch], order[batch:]
        frames, place = bank[pick], places[pick].clone()
        if step % 2:  # mirrored: no shape has a hand
            frames = frames.flip(3)
            place[:, 0] = 1.0 - place[:, 0]
        if step % 3:  # moved by a few pixels, so that shapes meet the patch grid everywhere
            dx, dy = torch.randint(-4, 5, (2,)).tolist()
            frames = frames.roll((dy, dx), dims=(2, 3))
            place += torch.tensor([dx, dy]) / FRAME
        features = encode_groups(visual, to_patches(frames))
        loss, hits = vision_loss(heads, features, labels[pick], place)
        loss.backward()
        for opt, lrs in zip(optimizers, base_lrs, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * schedule(step, steps)
            opt.step()
            opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 20 == 0:
            bar.set_postfix_str(
                f"loss {losses[-1]:.3f} colour/shape/background {hits.mul(100).round().int().tolist()}"
            )
    normalise_features(visual, bank[torch.randperm(len(bank))[:4096]])
    return losses


@torch.no_grad()
def normalise_features(visual: nn.Module, frames: torch.Tensor) -> None:
    """Fold "subtract the mean, scale to EMBEDDING_STD" into the last linear layer of the tower.

    Raw features have a standard deviation of about 3.5 and would drown the words.
    """
    features = torch.cat([encode_groups(visual, to_patches(part)) for part in frames.split(512)])
    mean = features.mean((0, 1))
    scale = EMBEDDING_STD / (features - mean).std()
    last = visual.merger.mlp[-1]
    last.bias.copy_((last.bias - mean) * scale)
    last.weight.mul_(scale)


@torch.no_grad()
def video_features(visual: nn.Module, spec: VideoSpec, rng: np.random.Generator) -> torch.Tensor:
    """Frozen features of a filmed video: (T, 4, hidden) float16."""
    return encode_groups(visual, to_patches(filmed_groups(spec, rng))).half()
