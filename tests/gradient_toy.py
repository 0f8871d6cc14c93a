"""Does the task loss alone teach the selector what is evidence? A toy in which the evidence is known.

Every group of a toy video shows one cue and one value, as the sum of two fixed random vectors and noise. The question
names a cue that exactly one group of the video shows; the answer is that group's value. Groups differ by nothing but
what they show, so a selector that does not understand the question finds the evidence with probability k/T.

A small Qwen2-VL learns first to read the value off a few given groups, half of the time without the evidence among
them. Then it is frozen, and what stands in front of it learns from the loss of its answers alone: no span, no label of
a group and no auxiliary loss is ever used. Visual tokens are given (`video_features`); all else is the model's
own path.

Shapes: B videos, T groups, k kept, D width.
"""

import math
from dataclasses import dataclass

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration


GROUPS, KEPT, WIDTH = 16, 4, 64
CUES, VALUES = 4, 4
VIDEO, START, END, IMAGE = 1, 2, 3, 4
FIRST_CUE = 5
FIRST_VALUE = FIRST_CUE + CUES
NOISE = 0.1

SELECTOR = {
    "num_representatives": KEPT,
    "selector_size": 32,
    "query_slots": 2,
    "covariance_rank": 4,
    "context_size": 16,
    "context_window": 3,
    "time_frequencies": 4,
    "lbg_iterations": 1,
    "selector_trained": True,
}
LEARNING_RATES = {"selector.": 3e-3, "rich_points.": 3e-4}


@dataclass
class ToyBatch:
    """tokens (B, T, D), cue and value as token ids (B,), place (B,): the group that holds the evidence."""

    tokens: torch.Tensor
    cue: torch.Tensor
    value: torch.Tensor
    place: torch.Tensor

    def inputs(self) -> dict:
        """What the model takes, with labels on the answer alone."""
        count, groups, _ = self.tokens.shape
        video = torch.tensor([START, *[VIDEO] * groups, END]).expand(count, -1)
        input_ids = torch.cat([video, self.cue[:, None], self.value[:, None]], dim=1)
        labels = torch.full_like(input_ids, -100)
        labels[:, -1] = self.value
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": 2 * (input_ids == VIDEO).int(),
            "video_grid_thw": torch.tensor([[groups, 2, 2]] * count),
            "video_features": [VideoFeatures(tokens[:, None]) for tokens in self.tokens],
            "query_input_ids": self.cue[:, None],
            "query_attention_mask": torch.ones(count, 1, dtype=torch.long),
            "labels": labels,
        }


class ToyWorld:
    """The looks of cues and values, and videos of them."""

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.cues = 0.6 * torch.randn(CUES, WIDTH, generator=generator)
        self.values = 0.6 * torch.randn(VALUES, WIDTH, generator=generator)
        self.common = 0.6 * torch.randn(WIDTH, generator=generator)

    def draw(self, count: int, generator: torch.Generator) -> ToyBatch:
        """`count` videos of `GROUPS` groups; of all groups only the one at `place` shows the cue that is asked for."""
        rows, place = torch.arange(count), torch.randint(GROUPS, (count,), generator=generator)
        asked = torch.randint(CUES, (count,), generator=generator)
        others = torch.randint(1, CUES, (count, GROUPS), generator=generator)
        cues = (asked[:, None] + others) % CUES
        cues[rows, place] = asked
        values = torch.randint(VALUES, (count, GROUPS), generator=generator)
        noise = NOISE * torch.randn(count, GROUPS, WIDTH, generator=generator)
        tokens = self.common + self.cues[cues] + self.values[values] + noise
        return ToyBatch(tokens, FIRST_CUE + asked, FIRST_VALUE + values[rows, place], place)


def reading_base(world: ToyWorld, *, steps: int = 150, batch: int = 32, lr: float = 2e-3, seed: int = 0):
    """A small Qwen2-VL that has learned to answer from given groups: 1 to `GROUPS` of them, from half-time on for
    every other video without the evidence."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    text = {
        "vocab_size": FIRST_VALUE + VALUES,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": WIDTH, "mlp_ratio": 2}
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
    }
    base = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    adapter = NTLBGForConditionalGeneration.from_base(base, config_kwargs=SELECTOR).adapter
    optimizer = torch.optim.AdamW(base.parameters(), lr=lr, betas=(0.9, 0.98))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_fall(step, steps))
    for step in range(steps):
        late = step >= steps // 2
        count = 2 ** int(torch.randint(int(math.log2(GROUPS)) + 1, (1,), generator=generator)) if late else GROUPS // 2
        drawn = world.draw(batch, generator)
        shown = torch.rand(batch, GROUPS, generator=generator)
        told = torch.arange(batch) % 2 == 0 if late else torch.ones(batch, dtype=torch.bool)
        shown[told, drawn.place[told]] = 2.0
        groups = shown.topk(count, dim=1).indices.sort(dim=1).values
        drawn.tokens = drawn.tokens[torch.arange(batch)[:, None], groups]
        inputs = drawn.inputs()
        features = adapter.encoder_outputs(inputs.pop("video_features"), None, None)
        inputs = {name: value for name, value in inputs.items() if not name.startswith("query_")}
        _descend(base(**inputs, mm_encoder_outputs=features).loss, optimizer, [list(base.parameters())])
        rates.step()
    return base.eval().requires_grad_(False)


def _warm_then_fall(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


def _descend(loss: torch.Tensor, optimizer, parts: list[list[torch.nn.Parameter]]) -> None:
    """One step; each part's gradient is clipped by itself, so that a loud one does not silence another."""
    optimizer.zero_grad()
    loss.backward()
    for part in parts:
        torch.nn.utils.clip_grad_norm_(part, 1.0)
    optimizer.step()


def learn(base, world: ToyWorld, *, seed: int, fade_share: float = 1.0, steps: int = 120, batch: int = 16):
    """A new NTLBG model in front of the frozen `base` after `steps` of the task loss alone."""
    torch.manual_seed(seed)
    model = NTLBGForConditionalGeneration.from_base(base, config_kwargs={**SELECTOR, "fade_share": fade_share})
    generator = torch.Generator().manual_seed(1000 + seed)
    groups = [
        {"params": [p for name, p in model.named_parameters() if name.startswith(prefix)], "lr": lr}
        for prefix, lr in LEARNING_RATES.items()
    ]
    optimizer = torch.optim.AdamW(groups)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_then_fall(step, steps))
    model.train()
    for _ in range(steps):
        loss = model(**world.draw(batch, generator).inputs()).task_loss
        _descend(loss, optimizer, [group["params"] for group in groups])
        rates.step()
    return model.eval()


@torch.no_grad()
def evidence_recall(model, world: ToyWorld, *, videos: int = 256, seed: int = 7) -> dict[str, float]:
    """On unseen videos: share in which the evidence is among the k, and share of right answers."""
    drawn = world.draw(videos, torch.Generator().manual_seed(seed))
    output = model(**drawn.inputs())
    found = [
        int(place) in chosen.indices.tolist() for place, chosen in zip(drawn.place, output.selections, strict=True)
    ]
    right = output.logits[:, -2].argmax(dim=1) == drawn.value
    return {"recall": sum(found) / videos, "accuracy": float(right.float().mean())}
