"""What one way to an answer costs, in a process of its own: `python -m ntlbg.evaluation.efficiency_run CASE.json`.

A random-weight model of the real classes answers one question about one real file, stage by stage: time, operations on
floating-point numbers, and the peak of memory above what the libraries alone take. Prints one JSON object.

Ways: "even", the groups of K evenly spaced pairs of candidates, all shown (with K = T these are all frames); "ntlbg",
two looks, a dual encoder over all candidates and the chosen groups read again; "ntlbg one look", the vision tower over
all candidates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


QUESTION = "Which came first, the red circle or the blue square?"
NEW_TOKENS = 16
STAGES = (
    *("open and decode", "descriptors", "selection", "second look", "processor", "vision tower", "prefill"),
    "decode",
)
LANGUAGE = ("prefill", "decode")


def memory(name: str) -> float:
    """MiB of `VmRSS` or `VmHWM` of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def build(shape: dict, tokenizer_of: str, with_scorer: bool) -> tuple[NTLBGForConditionalGeneration, NTLBGProcessor]:
    """
    A model of a shape with random weights, where asked a CLIP of a shape before it, and their processors.

    Args:
        shape: "text", "vision" (of `Qwen2VLConfig`), "clip_vision" (of `CLIPConfig`), "side" in pixels, "dtype",
            "device".
        tokenizer_of: checkpoint whose tokenizer and chat template are used.
    """
    tokenizer = Qwen2Tokenizer.from_pretrained(tokenizer_of)
    side, patch = shape["side"], shape["vision"]["patch_size"]
    common = {
        "size": {"shortest_edge": side**2, "longest_edge": side**2},
        "patch_size": patch,
        "merge_size": shape["vision"]["spatial_merge_size"],
        "temporal_patch_size": 2,
    }
    template = NTLBGProcessor.from_pretrained(tokenizer_of).chat_template
    base_processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**common, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=template,
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end", "im_end", "endoftext")
    }
    text = shape["text"]
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    config = Qwen2VLConfig(
        text_config={
            **text,
            "vocab_size": max(text.get("vocab_size", 0), len(tokenizer)),
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
            },
            "bos_token_id": None,
            # No token ends the answer: every way writes as many.
            "eos_token_id": None,
            "pad_token_id": ids["endoftext"],
        },
        vision_config={**shape["vision"], "hidden_size": text["hidden_size"], "temporal_patch_size": 2},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    torch.manual_seed(0)
    device, dtype = torch.device(shape["device"]), getattr(torch, shape["dtype"])
    with device:
        # Born in its own precision: in float32 first, a model of 7 B would not fit beside itself.
        torch.set_default_dtype(dtype)
        base = Qwen2VLForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
        if not with_scorer:
            return NTLBGForConditionalGeneration.from_base(base.eval()).eval(), NTLBGProcessor.from_base(
                base_processor
            )
        words = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": ids["im_end"]}
        clip = CLIPModel(CLIPConfig(text_config=words, vision_config=shape["clip_vision"]))
    model = NTLBGForConditionalGeneration.from_base(base.eval(), scorer=clip.eval()).eval()
    clip_side = shape["clip_vision"]["image_size"]
    scorer_processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": clip_side}, crop_size={"height": clip_side, "width": clip_side}),
        tokenizer,
    )
    return model, NTLBGProcessor.from_base(base_processor, scorer_processor=scorer_processor)


class Stopwatch:
    """Seconds and, where counted, floating-point operations of stages; the device has finished when one ends."""

    def __init__(self, device: torch.device, count: bool):
        self.device, self.count = device, count
        self.seconds: dict[str, float] = {}
        self.flops: dict[str, int] = {}
        self._counter: FlopCounterMode | None = None
        self._start = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._counter = FlopCounterMode(display=False) if self.count else None
        self._start = time.perf_counter()
        with self._counter or nullcontext():
            yield
        seconds, flops = self.so_far()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if self.count:
            self.flops[stage] = self.flops.get(stage, 0) + flops

    def so_far(self) -> tuple[float, int]:
        """Seconds and operations of the running stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        flops = 0 if self._counter is None else self._counter.get_total_flops()
        return time.perf_counter() - self._start, flops


class FirstToken(LogitsProcessor):
    """Notes where a stopwatch's running stage stands when the first token's logits are there."""

    def __init__(self, watch: Stopwatch):
        self.watch = watch
        self.seconds: float | None = None
        self.flops = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.seconds is None:
            self.seconds, self.flops = self.watch.so_far()
        return scores


def answer(model, arguments: dict, selection: Selection, watch: Stopwatch, within: str | None = None) -> None:
    """Prefill, until the first token's logits are there, and decoding of `NEW_TOKENS` more.

    Args:
        within: a stage that the generation goes through again; it is taken off the prefill.
    """
    first = FirstToken(watch)
    with watch("decode"):
        model.generate(
            **arguments,
            selection=[selection],
            do_sample=False,
            max_new_tokens=1 + NEW_TOKENS,
            logits_processor=LogitsProcessorList([first]),
        )
    for stages, prefill in ((watch.seconds, first.seconds), (watch.flops, first.flops)):
        if "decode" in stages:
            stages["prefill"] = max(prefill - stages.get(within, 0), 0)
            stages["decode"] -= prefill


@torch.no_grad()
def run(model, processor, video: str, way: str, groups: int, candidates: int, watch: Stopwatch) -> int:
    """One question, one way; returns the number of visual tokens that the language model read."""
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    device = watch.device
    videos = processor.video_processor
    if way == "even":
        with watch("open and decode"):
            seen = videos.fetch(video, candidate_fps=1000.0, max_candidates=2 * groups)[0]
        with watch("processor"):
            inputs = dict(processor(messages, videos=[seen], query=QUESTION).to(device))
        with watch("vision tower"):
            features = model.encode_video(**inputs)
        selection = Selection.from_indices(torch.arange(groups), inputs["group_timestamps"].cpu())
    elif way == "ntlbg":
        with watch("open and decode"):
            seen = videos.fetch(video, candidate_fps=1000.0, max_candidates=candidates, max_side=448)[0]
        with watch("descriptors"):
            look = processor.first_look(seen, QUESTION).to(device)
            described = model.encode_for_scorer(**look)
        with watch("selection"):
            look["scorer_features"] = described
            selection = model.select(**look, num_representatives=groups)
        with watch("second look"):
            inputs = dict(processor(messages, videos=[video], query=QUESTION, selection=selection).to(device))
        kept = inputs["video_grid_thw"].clone()
        kept[0, 0] = groups
        with watch("vision tower"):
            features = model.encode_video(inputs["pixel_values_videos"], kept)
        answer(model, inputs, selection, watch, within="vision tower")
        return groups * features[0].tokens.shape[1]
    else:
        with watch("open and decode"):
            seen = videos.fetch(video, candidate_fps=1000.0, max_candidates=candidates)[0]
        with watch("processor"):
            inputs = dict(processor(messages, videos=[seen], query=QUESTION).to(device))
        with watch("vision tower"):
            features = model.encode_video(**inputs)
        with watch("selection"):
            selection = model.select(**inputs, video_features=features, num_representatives=groups)
    # Everything is encoded already.
    del inputs["pixel_values_videos"]
    answer(model, {**inputs, "video_features": features}, selection, watch)
    return groups * features[0].tokens.shape[1]


def main() -> None:
    """Build, run once to count and to warm up, run the repeats, print."""
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(case["threads"])
    # The fixed cost of the interpreter and its libraries, which every way has.
    libraries = memory("VmRSS")
    model, processor = build(case["shape"], case["tokenizer_of"], case["way"] == "ntlbg")
    device = torch.device(case["shape"]["device"])
    parameters = sum(weight.numel() for weight in model.parameters())
    arguments = (model, processor, case["video"], case["way"], case["groups"], case["candidates"])
    if device.type == "cuda":
        run(*arguments[:4], 2, 8, Stopwatch(device, False))
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    weights = memory("VmRSS") - libraries
    # The first run is counted and warms up. Where it takes minutes, counting is nothing beside it: then it is timed.
    first = Stopwatch(device, case["count"])
    start = time.perf_counter()
    tokens = run(*arguments, first)
    repeats = []
    if time.perf_counter() - start < case["patience"]:
        for _ in range(case["repeats"]):
            watch = Stopwatch(device, False)
            run(*arguments, watch)
            repeats.append(watch.seconds)
    repeats = repeats or [first.seconds]
    peak = memory("VmHWM") - libraries
    result = {"tokens": tokens, "parameters": parameters, "seconds": repeats, "peak_mib": peak, "weights_mib": weights}
    if device.type == "cuda":
        result["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        result["reserved_mib"] = torch.cuda.max_memory_reserved(device) / 2**20
    if case["count"]:
        result["flops"] = first.flops
    print(json.dumps(result))


if __name__ == "__main__":
    main()
