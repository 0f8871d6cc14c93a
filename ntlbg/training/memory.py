"""What a training step holds in memory, part by part and moment by moment, from shapes alone.

A step passes through eight moments (`Estimate.moments`); its peak is the largest. At each moment a part is either held
or not, and its size is a closed formula of the shapes:

    weights, gradients      parameters x bytes; ZeRO divides by the processes: weights from stage 3, gradients from
                            stage 2, optimizer states from stage 1 (Rajbhandari et al. 2020, section 3)
    optimizer states        AdamW: two values a trained parameter; with ZeRO or fp16 a float32 copy of it, too (12
                            bytes, ibid.); with 8-bit states two bytes (Dettmers et al. 2022)
    4-bit weights           NF4 with double quantisation, 4.127 bits a value of a linear map (Dettmers et al. 2023)
    frames                  patches x values of a patch x 4 bytes, as the processor returns them
    vision tower            frozen: what one block holds at once for `chunk_groups` groups; trained: what its blocks
                            keep for the backward pass, over all groups
    features                T groups x n tokens x D, and again for each deepstack layer of Qwen3-VL
    selector                what autograd keeps of the keys of all T x n tokens and of the Gaussian of T descriptors
    kept tokens             k groups before and after enrichment, gate and concatenation
    language model          what autograd keeps of each layer: `layer_saved`; with gradient checkpointing its input
                            alone, and one layer whole while it is recomputed (Chen et al. 2016)
    logits                  answer tokens x vocabulary x 4 bytes, three times: log-probabilities, the gradient of the
                            loss and that of the logits are there at once

Trained embeddings have two gradients at once, each of the whole vocabulary: the prompt's, and the query's, which the
selector read from the same table; of tied ones that of the output layer waits through the whole backward pass. Where
gradients are kept from before (accumulation) or elsewhere (ZeRO-2), new ones come beside them.

What autograd keeps was read off the modules' operations: an elementwise product keeps both factors, a linear map its
input where its weight is trained, SiLU its input, RMSNorm its float32 input, attention q, k, v and its output (never
the L x L matrix, except for "eager"; Dao 2023). Padded rows have a mask, and then transformers' "sdpa" gives every
query head its own copy of k and v, and PyTorch turns the mask into numbers anew in every layer. tests/test_memory.py
compares with what autograd does keep and with what the allocator gives out, docs/benchmarks/memory.md with the memory
of whole processes.

Shapes: B videos a step, L tokens of a pruned prompt, T groups of a video, n tokens a group, k groups kept, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ntlbg.training.model_shapes import ModelShape
from ntlbg.training.stage_names import FEATURE_STAGES, LANGUAGE_STAGES


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Not counted anywhere else. On a CPU: 43 MB of code that the first step of any model pages in, 10 MB of objects that
# it makes (with a model of one layer of width 32). On a GPU the context of CUDA with the kernels' code and the
# workspaces of cuBLAS and NCCL.
FRAMEWORK_BYTES = {"cpu": 53e6, "cuda": 0.75 * 2**30}
_NF4_BYTES = 4.127 / 8


@dataclass(frozen=True)
class Job:
    r"""
    What is trained on what, as far as memory is concerned.

    Args:
        frames: candidate frames of a video.
        height, width: of a frame, in pixels, as the vision tower sees it.
        representatives: k, in groups.
        text_tokens: tokens of a prompt beside the video, the answer among them.
        answer_tokens: tokens with a label.
        batch: videos of one forward pass of one process.
        accumulation: forward passes of one update.
        stage: "selection" (selector, rich points, transition), "joint" (and the language model), "end_to_end" (and
            the vision tower; with LoRA only its merger), "projectors" (the merger alone) or "joint_projectors" (it and
            what "joint" trains).
        lora_r: rank of LoRA on the language model's linear maps; 0 trains the weights themselves.
        four_bit: whether the frozen linear maps are in 4 bits (QLoRA).
        dtype: type of the base's weights.
        compute: type of activations, by autocast or because the weights have it.
        checkpointing: gradient checkpointing of language model and, where it is trained, vision tower.
        attention: "sdpa", "flash_attention_2" or "eager".
        cached_features: whether the vision tower's features come from a cache instead of frames.
        optimizer: a name of transformers' `OptimizerNames`, of the AdamW kind.
        processes, zero_stage, offload_optimizer, offload_weights: of DeepSpeed; stage 0 is none.
        device: "cpu" or "cuda".
    """

    frames: int
    height: int = 224
    width: int = 224
    representatives: int = 32
    text_tokens: int = 256
    answer_tokens: int = 16
    batch: int = 1
    accumulation: int = 1
    stage: str = "joint"
    lora_r: int = 0
    four_bit: bool = False
    dtype: str = "float32"
    compute: str = "float32"
    checkpointing: bool = False
    attention: str = "sdpa"
    cached_features: bool = False
    optimizer: str = "adamw_torch_fused"
    processes: int = 1
    zero_stage: int = 0
    offload_optimizer: bool = False
    offload_weights: bool = False
    device: str = "cpu"
    chunk_groups: int = 64
    selector_size: int = 256
    query_slots: int = 4
    context_size: int = 256
    context_window: int = 9
    covariance_rank: int = 32
    time_frequencies: int = 16

    def groups(self, shape: ModelShape) -> int:
        """T."""
        return math.ceil(self.frames / shape.vision.frames_per_group)

    def kept(self, shape: ModelShape) -> int:
        """k, never more than T."""
        return min(self.representatives, self.groups(shape))

    def tokens_per_group(self, shape: ModelShape) -> int:
        """n."""
        return shape.tokens_per_group(self.height, self.width)

    def group_text(self, shape: ModelShape) -> int:
        """Tokens of a group's time in the prompt of Qwen3-VL, such as `<12.5 seconds>`."""
        return 7 if shape.family == "qwen3_vl" else 0

    def prompt_tokens(self, shape: ModelShape, groups: int) -> int:
        """Tokens of a prompt with so many groups."""
        markers = groups * (self.group_text(shape) + 2) if shape.family == "qwen3_vl" else 2
        return self.text_tokens + markers + groups * self.tokens_per_group(shape)

    def length(self, shape: ModelShape) -> int:
        """L, of the pruned prompt."""
        return self.prompt_tokens(shape, self.kept(shape))


@dataclass(frozen=True)
class Estimate:
    r"""
    Args:
        moments: for each moment the bytes of each part on the device.
        host: bytes of each part that DeepSpeed keeps in the host's memory instead.
        trained, parameters: numbers of parameters.
    """

    moments: dict[str, dict[str, float]]
    host: dict[str, float]
    trained: int
    parameters: int

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=lambda name: sum(self.moments[name].values()))

    @property
    def parts(self) -> dict[str, float]:
        """Bytes of each part at the peak."""
        return {name: size for name, size in self.moments[self.peak_moment].items() if size}

    @property
    def peak(self) -> float:
        """Bytes."""
        return sum(self.parts.values())


def selector_parameters(shape: ModelShape, job: Job) -> int:
    """Of selector, rich points and transition, which are always trained and always float32."""
    width, size, context = shape.hidden, job.selector_size, job.context_size
    layer = 4 * size * size + 4 * size + 2 * (2 * size * size) + 3 * size + 4 * size
    query = 2 * width + (width + 1) * size + layer + job.query_slots * size + (size + 1) * size
    keys = 2 * width + (width + 1) * size + (size + 1) * size
    rank = min(job.covariance_rank, width)
    prior = 2 * (size + 1) * width + width * rank + (size + 1) * rank
    half = context // 2
    lstm = 2 * 4 * half * (context + half + 2)
    point = width + context + 1 + 2 * job.time_frequencies
    fusion = 2 * width + (point + 1) * 2 * context + (2 * context + 1) * width + width
    rich = 2 * width + 2 * (width + 1) * context + lstm + 2 * context + fusion
    transition = (width + 1) * context + (3 * context + 2) * 2 * context + (2 * context + 1) * context
    return query + keys + prior + 3 + rich + transition


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Of the adapters on the seven linear maps of every decoder layer."""
    return shape.layers * sum(rank * (rows + columns) for rows, columns in shape.linear_shapes)


def trained_base_parameters(shape: ModelShape, job: Job) -> int:
    """Of the base itself, in its own type."""
    count = 0
    if _trains_language_model(job):
        count += shape.language_parameters
    return count + _trained_tower_parameters(shape, job)


def _trained_tower_parameters(shape: ModelShape, job: Job) -> int:
    if _trains_tower(job):
        return shape.vision_parameters
    return shape.merger_parameters if job.stage in FEATURE_STAGES else 0


def layer_saved(shape: ModelShape, job: Job) -> float:
    """Bytes that autograd keeps of one decoder layer, for all B x L tokens."""
    return _attention_saved(shape, job) + _mlp_saved(shape, job)


def _norm_saved(shape: ModelShape, job: Job) -> float:
    """Bytes a token that RMSNorm keeps, and with it the linear maps that read its output."""
    size, adapted = BYTES[job.compute], _trains_adapters(job)
    # It works in float32; its input is kept so, its normalised product and its output only for weights.
    full = _trains_language_model(job)
    return shape.hidden * (4 + (size if full else 0) + (size if full or adapted else 0))


def _attention_saved(shape: ModelShape, job: Job) -> float:
    size, length, tokens = BYTES[job.compute], job.length(shape), job.batch * job.length(shape)
    query, kv = shape.query_width, shape.kv_width
    masked = job.attention == "eager" or (job.attention == "sdpa" and job.batch > 1)
    saved = _norm_saved(shape, job) + (2 * query + 2 * (query if masked else kv)) * size
    if shape.family == "qwen3_vl":
        saved += (query + kv) * (4 + (size if _trains_language_model(job) else 0))
    if _trains_adapters(job):
        # Of q, k, v and o. Each of q, k, v casts the common input to the adapter's type for itself.
        saved += 4 * job.lora_r * size + (2 * shape.hidden * size if size == 2 else 0)
    if job.attention == "eager":
        # Probabilities, once as softmax keeps them and once as the product with v does.
        return tokens * saved + job.batch * shape.heads * length**2 * (4 + (size if size == 2 else 0))
    return tokens * (saved + shape.heads * 4) + (job.batch * length**2 * size if masked else 0)


def _mlp_saved(shape: ModelShape, job: Job) -> float:
    size, inner, adapted = BYTES[job.compute], shape.intermediate, _trains_adapters(job)
    full = _trains_language_model(job)
    saved = _norm_saved(shape, job) + 3 * inner * size + (inner * size if full or adapted else 0)
    if adapted:
        saved += 3 * job.lora_r * size + (shape.hidden * size if size == 2 else 0)
    return job.batch * job.length(shape) * saved


def _trains_language_model(job: Job) -> bool:
    return job.stage in LANGUAGE_STAGES and not job.lora_r


def _trains_adapters(job: Job) -> bool:
    return job.stage in LANGUAGE_STAGES and bool(job.lora_r)


def _trains_tower(job: Job) -> bool:
    """Itself, and not its merger alone."""
    return job.stage == "end_to_end" and not job.lora_r


def layer_transient(shape: ModelShape, job: Job) -> float:
    """Bytes beyond `layer_saved` while the gradient goes through a decoder layer: at its MLP, or, when what the MLP
    kept is gone, at the maps around its attention or at the L x L probabilities of "eager", which have two
    gradients."""
    size, tokens = BYTES[job.compute], job.batch * job.length(shape)
    mlp = 2 * shape.intermediate + 3 * shape.hidden
    maps = tokens * (3 * shape.query_width + 4 * shape.kv_width + 4 * shape.hidden) * size
    scores = 0.0
    if job.attention == "eager":
        scores = tokens * (2 * shape.query_width + shape.hidden) * size
        scores += 2 * job.batch * shape.heads * job.length(shape) ** 2 * 4
    return max(tokens * mlp * size, max(maps, scores) - _mlp_saved(shape, job))


def _patches(shape: ModelShape, job: Job) -> int:
    return job.tokens_per_group(shape) * shape.vision.merge**2


def vision_chunk(shape: ModelShape, job: Job) -> float:
    """Bytes a frozen tower holds at once for one chunk: the widest point of a block, of the merger, of the patches."""
    vision, size = shape.vision, BYTES[job.compute]
    rows = min(job.chunk_groups, job.groups(shape)) * _patches(shape, job)
    # Input, norm, q k v; then float32 products of the rotation, which are copies where the type is not float32.
    rotation = 5 * vision.width * size + (6 if size == 2 else 4) * vision.width * 4
    mlp = 3 * vision.width * size + (2 if shape.family == "qwen3_vl" else 3) * vision.intermediate * size
    merger = 4 * vision.width * size
    # What becomes of the frames, twice, as the convolution lays it out for itself; in 16 bits the frames are cast, and
    # on a CPU laid out anew, too.
    casts = (2 if job.device == "cpu" else 1) if size == 2 else 0
    patches = (casts * vision.pixels_per_patch + 2 * vision.width) * size
    return rows * max(rotation, mlp, merger, patches)


def vision_saved(shape: ModelShape, job: Job) -> tuple[float, float, float]:
    """Bytes that autograd keeps of a trained tower for all groups; of one block while it is recomputed; beyond these
    while the gradient goes through a block's MLP."""
    vision, size = shape.vision, BYTES[job.compute]
    rows = job.batch * job.groups(shape) * _patches(shape, job)
    merger = 4 * vision.width * size * (1 + vision.deepstack)
    if job.stage not in FEATURE_STAGES or job.cached_features:
        return 0.0, 0.0, 0.0
    if not _trains_tower(job):
        return rows * merger, 0.0, 0.0
    inner = {"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 2}[shape.family] * vision.intermediate
    block = (11 * vision.width + inner) * size
    chunk = min(job.chunk_groups, job.groups(shape)) * _patches(shape, job)
    transient = chunk * (2 * vision.intermediate + 3 * vision.width) * size
    if job.checkpointing:
        return rows * (vision.depth * vision.width * size + merger), chunk * block, transient
    return rows * (vision.depth * block + merger), 0.0, transient


def selector_saved(shape: ModelShape, job: Job) -> float:
    """Bytes that autograd keeps of relevance, Gaussian and contexts."""
    tokens, width = job.groups(shape) * job.tokens_per_group(shape), shape.hidden
    # The norm's output, and its float32 input where that is a copy; four tensors of the keys; the matches.
    keys = width * (8 if BYTES[job.compute] == 2 else 4) + 4 * job.selector_size * 4 + job.query_slots * 4
    # Three of (T, D) for each of two Mahalanobis distances, one each for mean, norm, pooling and descriptors.
    moments = 10 * job.groups(shape) * width * 4
    windows = job.kept(shape) * job.context_window * job.context_size * 4 * 8
    return job.batch * (tokens * keys + moments + windows)


def estimate_memory(shape: ModelShape, job: Job) -> Estimate:
    """The memory of one process, from the second update on (the first has no optimizer states yet)."""
    size = BYTES[job.compute]
    own = selector_parameters(shape, job)
    frozen = own if job.stage == "projectors" else 0
    base = trained_base_parameters(shape, job)
    adapters = lora_parameters(shape, job.lora_r) if _trains_adapters(job) else 0
    trained = base + own - frozen + adapters
    states = _States(shape, job, base, own - frozen + adapters, frozen)

    groups, kept = job.groups(shape), job.kept(shape)
    per_group = job.tokens_per_group(shape)
    inputs = job.batch * job.prompt_tokens(shape, groups) * 8 * 8
    feature_layers = 1 + shape.vision.deepstack
    features = job.batch * groups * per_group * shape.hidden * feature_layers * size
    pixels = (
        0.0 if job.cached_features else job.batch * groups * _patches(shape, job) * shape.vision.pixels_per_patch * 4
    )
    kept_bytes = job.batch * kept * per_group * shape.hidden * feature_layers * size
    tower, tower_block, tower_transient = vision_saved(shape, job)
    trains_tower = _trains_tower(job)
    selector = selector_saved(shape, job)
    tokens = job.batch * job.length(shape)
    layer = layer_saved(shape, job)
    stack = shape.layers * (tokens * shape.hidden * size if job.checkpointing else layer)
    head = tokens * shape.hidden * (4 + 2 * size)
    stack += _mask(shape, job) + head
    logits = job.batch * job.answer_tokens * shape.vocabulary * 4
    # On a CPU the batch is the caller's and stays; on a GPU its copy goes before the backward pass begins.
    later = 1.0 if job.device == "cpu" else 0.0
    # float32 features are what the selector's norm keeps; others it has copied.
    held = 1.0 if size == 4 or (job.cached_features and later) else 0.0
    from_cache = features * later if job.cached_features else 0.0
    twice = features / job.batch if groups > job.chunk_groups else 0.0
    float_copy = features / feature_layers / job.batch * 2 if size == 2 else 0.0

    # While it is encoded, a tower in training already keeps what it will need; a frozen one holds a block at a time,
    # of one chunk, whose features are still to come.
    encoding = {"features": features, "vision tower": tower}
    if trains_tower:
        encoding["vision tower"] += tower_block
    elif not job.cached_features:
        chunk = min(1.0, job.chunk_groups / groups) * features / job.batch
        if vision_chunk(shape, job) - chunk > twice:
            encoding = {"features": features - chunk, "vision tower": tower + vision_chunk(shape, job)}
        else:
            encoding["vision tower"] += twice
    forward = {
        "frames": pixels * later,
        "vision tower": tower,
        "features": features * held,
        "selector": selector,
        "kept tokens": 2 * kept_bytes,
    }
    transient = layer_transient(shape, job)
    moments = {
        "encoding": {"frames": pixels, **encoding},
        "selection": {
            "frames": pixels,
            "vision tower": tower,
            "features": features,
            "selector": selector + max(float_copy, 4 * groups * shape.hidden * 4),
        },
        "loss": {**forward, "language model": stack, "logits": 3 * logits},
        "backward of the last layer": {
            **forward,
            "language model": stack + transient + (layer if job.checkpointing else 0),
        },
        "backward of the first layer": {**forward, "language model": layer + transient + _mask(shape, job)},
        # The query's embeddings were the first thing read after the tower: of all else the backward pass is through.
        "backward of the embeddings": {"frames": pixels * later, "vision tower": tower, "features": from_cache},
        "backward of the tower": {
            "frames": pixels * later,
            "vision tower": tower + tower_block + tower_transient,
            "features": from_cache,
        },
        "update": {"frames": pixels * later, "features": from_cache},
    }
    for name, parts in moments.items():
        parts["frames"] += inputs
        moments[name] = {**states.parts(name), **parts, "framework": FRAMEWORK_BYTES[job.device]}
    return Estimate(moments, states.host(), trained, shape.parameters + own + adapters)


def _mask(shape: ModelShape, job: Job) -> float:
    """A batch of several rows is padded, which takes a mask; so does "eager"."""
    if job.attention == "flash_attention_2" or (job.attention == "sdpa" and job.batch == 1):
        return 0.0
    return job.batch * job.length(shape) ** 2 * (BYTES[job.compute] if job.attention == "eager" else 1)


class _States:
    """Weights, gradients and optimizer states of one process, on the device and on the host."""

    def __init__(self, shape: ModelShape, job: Job, base: int, full_precision: int, frozen: int):
        self.shape, self.job, self.base, self.own = shape, job, base, full_precision
        width = BYTES[job.dtype]
        partitioned = job.zero_stage and width == 2
        self.weights = self._frozen_and_trained(width) + 4.0 * (full_precision + frozen)
        self.gradients = width * base + 4.0 * full_precision
        master = 12 if partitioned else 2 * width
        if "8bit" in job.optimizer or "bnb" in job.optimizer:
            self.states = 2.0 * (base + full_precision)
        else:
            self.states = float(master * base + 8 * full_precision)
        # Under autocast float32 weights are multiplied as 16-bit copies, which live as long as the forward pass and,
        # kept by autograd, the backward pass.
        self.copies = 2.0 * base if BYTES[job.compute] == 2 and width == 4 else 0.0
        self.largest = self._largest_trained() * width

    def _frozen_and_trained(self, width: int) -> float:
        if not self.job.four_bit:
            return float(width * self.shape.parameters)
        embeddings = self.shape.embedding_parameters + self.shape.head_parameters
        return embeddings * width + (self.shape.parameters - embeddings) * _NF4_BYTES

    def _largest_trained(self) -> int:
        if not _trains_language_model(self.job):
            return 0
        return max(self._largest_linear(), self.shape.embedding_parameters)

    def _largest_linear(self) -> int:
        return max(rows * columns for rows, columns in self.shape.linear_shapes)

    def _zero(self) -> tuple[float, float, float, float]:
        """Weights, gradients, states of this process and the buffers of the exchange."""
        job, shape, count = self.job, self.shape, max(self.job.processes, 1)
        weights, gradients, states, buffers = self.weights, self.gradients, self.states, 0.0
        if job.zero_stage >= 1:
            states /= count
            # "auto" in our ds_configs: a bucket of hidden size squared, filled while another is sent.
            buffers = 2 * shape.hidden**2 * BYTES[job.dtype]
        if job.zero_stage >= 2:
            gradients /= count
        if job.zero_stage >= 3:
            whole = max(shape.embedding_parameters, 2 * shape.layer_parameters) * BYTES[job.dtype]
            buffers += min(whole, weights)
            weights /= count
        elif job.zero_stage == 0 and count > 1:
            # DistributedDataParallel's buckets are views of the gradients, which it lays out a second time.
            buffers = gradients
        return weights, gradients, states, buffers

    def parts(self, moment: str) -> dict[str, float]:
        job = self.job
        weights, gradients, states, buffers = self._zero()
        early = job.accumulation > 1
        reached = 1.0
        if not early and moment != "update":
            reached = self._share_reached(moment)
        held = {
            "weights": weights + (self.copies if moment not in ("encoding", "update") else 0.0),
            "gradients": gradients * reached + self._fresh(moment),
            "optimizer states": states + (self._update_transient() if moment == "update" else 0.0),
            "exchange": buffers,
        }
        for part in self.host():
            held[part] = 0.0
        if "gradients" in self.host():
            held["gradients"] = self._fresh(moment)
        return held

    def _share_reached(self, moment: str) -> float:
        """Share of the gradients that the backward pass has made."""
        if not moment.startswith("backward"):
            return 0.0
        size = BYTES[self.job.dtype]
        if moment == "backward of the last layer":
            return size * self.shape.embedding_parameters / self.gradients if self.largest else 0.0
        # The tower, which came first, is last.
        return 1 - size * _trained_tower_parameters(self.shape, self.job) / self.gradients

    def _fresh(self, moment: str) -> float:
        """Bytes of gradients beside those that are kept: new ones that are still to be added or sent."""
        if not self.largest or not moment.startswith("backward"):
            return 0.0
        size, table = BYTES[self.job.dtype], self.shape.embedding_parameters
        beside = self.job.accumulation > 1 or self.job.zero_stage >= 2
        if moment == "backward of the embeddings":
            return size * table * (2 if beside else 1)
        if not beside or moment == "backward of the tower":
            return 0.0
        return size * (self._largest_linear() + (table if self.shape.tied else 0))

    def _update_transient(self) -> float:
        """Temporaries of AdamW: none when fused; of all parameters at once on a GPU, of the largest on a CPU."""
        if "fused" in self.job.optimizer or self.job.zero_stage:
            return 0.0
        if self.job.device == "cuda":
            return 4.0 * (self.base + self.own)
        return 2.0 * self.largest

    def host(self) -> dict[str, float]:
        weights, gradients, states, _ = self._zero()
        host = {}
        if self.job.offload_optimizer:
            host["optimizer states"] = states
            if self.job.zero_stage >= 2:
                host["gradients"] = gradients
        if self.job.offload_weights:
            host["weights"] = weights
        return host
