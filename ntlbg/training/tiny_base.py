"""The base of the tiny checkpoint, from nothing but seeds: what a released vision-language model is to a user of this
project, made here because there is none this small.

    python -m ntlbg.training.tiny_base
    python -m ntlbg.training.tiny_base --smoke

Stages, each a function that leaves its result in the work folder and is skipped where that result already lies:

    vision     the vision tower learns to see, on frames out of real mp4 files (tiny_vision.py)
    cache      frozen features of the training and validation videos
    language   the language model learns to answer from k chosen groups (tiny_language.py)
    wide       a few hundred steps more with up to 128 groups, so that many frames are read as well as few
    evaluate   exact match of the base on unseen videos under uniform, relevant and oracle frames
    untrained  an untrained selector in front of it: what train.py begins from, with configuration/tiny.json
"""

import argparse
import hashlib
import inspect
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from ntlbg.data import questions, world, world_render, world_video
from ntlbg.data.questions import all_words
from ntlbg.data.world import WITHHELD_PAIRS, build_video, split_seed
from ntlbg.data.world_dataset import mixed_seconds
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training import tiny_language, tiny_model, tiny_vision
from ntlbg.training.tiny_language import WIDE_BUDGETS, CachedVideo, evaluate_base, format_results, train_language
from ntlbg.training.tiny_model import SELECTOR, build_base, build_processor, build_tokenizer
from ntlbg.training.tiny_vision import train_vision, video_features


@dataclass(frozen=True)
class Sizes:
    """How much of everything: videos filmed, optimisation steps, batch sizes."""

    vision_videos: int = 180
    vision_steps: int = 1200
    vision_batch: int = 256
    videos: int = 1200
    validation_videos: int = 300
    language_steps: int = 3200
    language_batch: int = 64
    wide_steps: int = 600
    withhold: bool = False  # never show `WITHHELD_PAIRS`

    @property
    def withheld(self) -> frozenset[tuple[str, str]]:
        """(colour, shape) pairs that are never shown."""
        return WITHHELD_PAIRS if self.withhold else frozenset()


SMOKE = Sizes(6, 60, 64, 6, 4, 40, 16, 5)


def vision_stage(work: Path, sizes: Sizes) -> None:
    """vision.pt: weights of the trained tower; vision_losses.json."""
    torch.manual_seed(0)
    visual = build_base(build_tokenizer(all_words())).model.visual
    losses = train_vision(
        visual,
        videos=sizes.vision_videos,
        steps=sizes.vision_steps,
        batch=sizes.vision_batch,
        withheld=sizes.withheld,
    )
    _expect_fall("vision", losses)
    torch.save(visual.state_dict(), work / "vision.pt")
    (work / "vision_losses.json").write_text(json.dumps(losses))


def cache_stage(work: Path, sizes: Sizes) -> None:
    """train.pt and validation.pt: lists of (seed, duration, features (T, 4, hidden) float16)."""
    visual = build_base(build_tokenizer(all_words())).model.visual
    visual.load_state_dict(torch.load(work / "vision.pt"))
    for split, count in (("train", sizes.videos), ("validation", sizes.validation_videos)):
        entries = []
        for index in tqdm(range(count), desc=f"cache: {split}"):
            seed = split_seed(split, index)
            duration = mixed_seconds(index) if split == "train" else 256
            spec = build_video(seed, duration, withheld=sizes.withheld)
            features = video_features(visual, spec, np.random.default_rng([19, index]))
            entries.append((seed, duration, features))
        torch.save(entries, work / f"{split}.pt")


def load_cache(path: Path, sizes: Sizes) -> list[CachedVideo]:
    """Cached videos with their specifications, drawn anew from the seeds."""
    return [
        CachedVideo(build_video(seed, duration, withheld=sizes.withheld), features)
        for seed, duration, features in torch.load(path)
    ]


def language_stage(work: Path, sizes: Sizes) -> None:
    """language/: the trained model and its processor; language_losses.json."""
    torch.manual_seed(1)
    tokenizer = build_tokenizer(all_words())
    model, processor = build_base(tokenizer), build_processor(tokenizer)
    model.model.visual.load_state_dict(torch.load(work / "vision.pt"))
    losses = train_language(
        model, processor, load_cache(work / "train.pt", sizes), steps=sizes.language_steps, batch=sizes.language_batch
    )
    _expect_fall("language", losses)
    for part in (model, processor):
        part.save_pretrained(work / "language")
    (work / "language_losses.json").write_text(json.dumps(losses))


def wide_stage(work: Path, sizes: Sizes) -> None:
    """base/: the model after some steps with up to 128 groups; wide_losses.json.

    Without them it reads 64 or more groups worse than 32, and a comparison with even sampling at more frames would
    flatter the selector.
    """
    model, processor = load_model(work / "language")
    losses = train_language(
        model,
        processor,
        load_cache(work / "train.pt", sizes),
        steps=sizes.wide_steps,
        batch=sizes.language_batch,
        seed=1,
        lr=1e-3,
        adam_lr=1e-3,
        budgets=WIDE_BUDGETS,
        words_fixed=True,
    )
    for part in (model.eval(), processor):
        part.save_pretrained(work / "base")
    (work / "wide_losses.json").write_text(json.dumps(losses))


def load_model(folder: Path) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """A saved model, ready for inference, and its processor."""
    return Qwen2VLForConditionalGeneration.from_pretrained(folder).eval(), Qwen2VLProcessor.from_pretrained(folder)


def evaluate_stage(work: Path, sizes: Sizes) -> None:
    """base_results.json: exact match at k = 8 of 128 on validation videos."""
    model, processor = load_model(work / "base")
    videos = load_cache(work / "validation.pt", sizes)
    results = {}
    for wording in ("train", "heldout"):
        results[wording] = evaluate_base(model, processor, videos, wording=wording)
        print(f"wordings: {wording}\n{format_results(results[wording])}")
    (work / "base_results.json").write_text(json.dumps(results, indent=1))


def untrained_stage(work: Path, sizes: Sizes) -> None:
    """untrained/: the NTLBG model around the base, and its processor."""
    torch.manual_seed(2)
    base, base_processor = load_model(work / "base")
    processor = NTLBGProcessor.from_base(
        base_processor, candidate_fps=SELECTOR["candidate_fps"], max_candidates=SELECTOR["max_candidates"]
    )
    processor.save_pretrained(work / "untrained")
    NTLBGForConditionalGeneration.from_base(base, config_kwargs=SELECTOR).save_pretrained(work / "untrained")


_SEEING = (world, world_render, world_video, tiny_model, tiny_vision)
_ANSWERING = (*_SEEING, questions, tiny_language)
# Every stage with the file that shows it is done and the modules its result depends on.
STAGES = {
    "vision": (vision_stage, "vision.pt", _SEEING),
    "cache": (cache_stage, "validation.pt", _SEEING),
    "language": (language_stage, "language_losses.json", _ANSWERING),
    "wide": (wide_stage, "wide_losses.json", _ANSWERING),
    "evaluate": (evaluate_stage, "base_results.json", _ANSWERING),
    "untrained": (untrained_stage, "untrained/config.json", _ANSWERING),
}


def _fingerprint(modules: tuple, sizes: Sizes) -> str:
    """What a stage's result was made by."""
    sources = [inspect.getsource(module) for module in modules]
    return hashlib.sha256("\0".join([repr(sizes), *sources]).encode()).hexdigest()


def _expect_fall(name: str, losses: list[float]) -> None:
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    if not last < 0.95 * first:
        raise RuntimeError(f"the {name} loss did not fall: {first:.3f} at the start, {last:.3f} at the end")
    print(f"{name}: loss {first:.3f} -> {last:.3f}")


def main(arguments: list[str] | None = None) -> None:
    """Run the stages that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="folder of intermediate results")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument(
        "--smoke", action="store_true", help="the whole recipe at a tiny scale, in its own work folder"
    )
    parser.add_argument(
        "--withhold", action="store_true", help="never show the pairs that the split test-pairs asks about"
    )
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="which stages to run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    work = options.work / "smoke" if options.smoke else options.work
    work.mkdir(parents=True, exist_ok=True)
    sizes = replace(SMOKE if options.smoke else Sizes(), withhold=options.withhold)
    for name in options.stages:
        stage, result, modules = STAGES[name]
        mark, made_by = work / f"{name}.made-by", _fingerprint(modules, sizes)
        if (work / result).exists() and not options.smoke:
            if not mark.exists() or mark.read_text() != made_by:
                parser.error(f"{work / result} was made by other code or sizes; delete {work} to start anew")
            print(f"{name}: {work / result} is there already")
        else:
            stage(work, sizes)
            mark.write_text(made_by)


if __name__ == "__main__":
    main()
