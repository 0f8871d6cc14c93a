"""How long a training step takes, from floating-point operations and the card's peak.

Operations: 2 per weight and token forward, as many again for the gradient of the activations, as many for that of the
weights where they are trained, and the forward pass once more with gradient checkpointing (Kaplan et al. 2020,
section 2.1; Korthikanti et al. 2022). Attention: 4 L^2 x width a layer forward, half of it under a causal mask. The
share of the peak that real runs reach is an assumption, `UTILISATION`, not a measurement of this project; decoding of
videos, which runs beside the GPU, is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntlbg.training.memory import Job, estimate_memory
from ntlbg.training.model_shapes import ModelShape
from ntlbg.training.stage_names import FEATURE_STAGES, LANGUAGE_STAGES
from ntlbg.training.tiers import Card


# PaLM's authors reached 46 % and LLaMA's about 50 % of the peak on long runs (Chowdhery et al. 2022, table 3); small
# batches of long sequences do worse.
UTILISATION = 0.4


@dataclass(frozen=True)
class StepTime:
    """Operations by part and seconds of one update of one process."""

    operations: dict[str, float]
    compute_seconds: float
    transfer_seconds: float

    @property
    def seconds(self) -> float:
        return self.compute_seconds + self.transfer_seconds


def step_time(shape: ModelShape, job: Job, card: Card) -> StepTime:
    """Seconds of one update: `accumulation` forward and backward passes, and what is moved to the host and back."""
    tokens, length = job.batch * job.length(shape), job.length(shape)
    groups, per_group = job.groups(shape), job.tokens_per_group(shape)
    linear = sum(rows * columns for rows, columns in shape.linear_shapes)
    layers = shape.layers * (2 * linear * tokens + 2 * length * tokens * shape.query_width)
    head = 2 * shape.embedding_parameters * job.batch * job.answer_tokens
    full = job.stage in LANGUAGE_STAGES and not job.lora_r
    # Forward, gradient of the activations, and those of the weights or once more the forward pass.
    language = layers * (2 + full + job.checkpointing) + head * (2 + full)

    patches = per_group * shape.vision.merge**2
    rows = job.batch * groups * patches
    tower = 0.0
    if not job.cached_features:
        blocks = shape.vision.depth * (2 * shape.block_parameters * rows + 4 * patches * rows * shape.vision.width)
        merger = 2 * shape.merger_parameters * rows / shape.vision.merge**2
        trained = job.stage in FEATURE_STAGES
        whole = job.stage == "end_to_end" and not job.lora_r
        tower = blocks * (1 + 2 * whole + (whole and job.checkpointing)) + merger * (1 + 2 * trained)
    keys = 2 * (shape.hidden + job.selector_size) * job.selector_size * job.batch * groups * per_group
    # In float32, which has about an eighth of the 16-bit peak on these cards; counted as eight times the operations.
    selector = 8 * 2 * keys
    operations = {
        name: job.accumulation * count
        for name, count in (("language model", language), ("vision tower", tower), ("selector", selector))
    }
    host = estimate_memory(shape, job).host
    moved = 0.0
    if "weights" in host:
        # Up for the forward, the backward and, with checkpointing, the repeated pass, each micro-batch.
        moved += (2 + job.checkpointing) * job.accumulation * host["weights"]
    if "optimizer states" in host:
        moved += 2 * host.get("gradients", 0.0)
    return StepTime(operations, sum(operations.values()) / (UTILISATION * card.tflops * 1e12), moved / card.link)
