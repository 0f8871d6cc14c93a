"""What each training loss is worth to the selector: fresh selectors in front of the frozen ntlbg-tiny base.

    python -m ntlbg.evaluation.loss_ablation --out docs/benchmarks/losses

Every configuration of losses trains by NTLBGTrainer, stage "selection", from several seeds, on the same number of
steps over frozen features, and is then asked about unseen videos of which it may show k groups. Each run's result is
kept in the work folder, so that a bench that was cut off, or shared out by `--seeds` and `--only`, is taken up again.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ntlbg.data.frozen_features import entry_inputs
from ntlbg.data.qa_records import BadRow, parse_row
from ntlbg.data.questions import (
    GROUP_SECONDS,
    Question,
    make_questions,
    oracle_groups,
    span_groups,
    to_record,
    uniform_groups,
)
from ntlbg.data.video_entries import VideoEntry
from ntlbg.data.world import build_video, split_seed
from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.loss_report import draw, summarise, to_markdown
from ntlbg.fingerprints import hash_of, weights_digests
from ntlbg.modeling_ntlbg.adapters_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.collator import IGNORED_LABEL, NTLBGDataCollator
from ntlbg.training.fresh_selector import fresh_model
from ntlbg.training.loss_schedule import LOSSES
from ntlbg.training.tiny_language import CachedVideo
from ntlbg.training.tiny_model import FRAME, GROUP_FRAMES
from ntlbg.training.tiny_vision import video_features
from ntlbg.training.trainer import NTLBGTrainer


# The losses beside the task's; the schedule is the specification's.
CONFIGURATIONS = {
    "task": (),
    "task + ntlbg": ("ntlbg",),
    "task + align": ("align",),
    "task + context": ("context",),
    "all four": ("ntlbg", "align", "context"),
    "task + evidence": ("evidence",),
    "all four + evidence": ("ntlbg", "align", "context", "evidence"),
    "task, twice the steps": (),
}
TIMES_THE_STEPS = {"task, twice the steps": 2}
GIVEN = {"uniform": lambda question, total, k: uniform_groups(total, k), "oracle": oracle_groups}


@dataclass(frozen=True)
class Settings:
    """What all runs share.

    Args:
        train_videos, eval_videos: number of videos; `split` is that of the latter.
        train_seconds, seconds: length of each video in training and asked about; a group lasts two.
        steps, batch, learning_rate: of the training, the rate after ten steps of warm-up, falling on a half cosine.
        k: groups that may be shown to answer.
        train_k: groups that are shown in training, at most all.
        fade_share: see `NTLBGTrainingArguments`.
    """

    split: str = "test"
    train_videos: int = 300
    eval_videos: int = 60
    train_seconds: int = 128
    seconds: int = 256
    steps: int = 400
    batch: int = 2
    learning_rate: float = 1e-3
    k: int = 8
    train_k: int = 64
    fade_share: float = 1.0


class WorldFeatures:
    """Frozen features of procedural videos, by `video_id`, as `NTLBGDataCollator(features=...)` reads them."""

    def __init__(self, processor: NTLBGProcessor, videos: list[CachedVideo]):
        self._processor = processor
        self._videos = {video.spec.video_id: video for video in videos}

    def inputs(self, row: dict, prompt: str) -> dict:
        """As `FrozenFeatures.inputs`."""
        if row["video_id"] not in self._videos:
            raise BadRow(f"the video {row['video_id']!r} is not among the {len(self._videos)} that were encoded")
        video = self._videos[row["video_id"]]
        side = FRAME // self._processor.video_processor.patch_size
        frames = video.total * GROUP_FRAMES
        entry = VideoEntry(
            VideoFeatures(video.features.float()),
            torch.tensor([video.total, side, side]),
            torch.arange(frames),
            torch.arange(frames, dtype=torch.float64) * GROUP_SECONDS / GROUP_FRAMES,
            {
                "fps": GROUP_FRAMES / GROUP_SECONDS,
                "total_num_frames": frames,
                "duration": float(video.spec.duration),
                "height": FRAME,
                "width": FRAME,
                "name": row["video_id"],
                "warnings": [],
            },
        )
        return entry_inputs(self._processor, entry, prompt, row["question"])


def cached_videos(work: Path, visual: nn.Module, split: str, count: int, seconds: int) -> list[CachedVideo]:
    """The first `count` videos of a split, filmed and encoded unless the work folder has them."""
    folder = work / f"features-{hash_of(weights_digests(visual))[:16]}-{seconds}s"
    folder.mkdir(parents=True, exist_ok=True)
    videos = []
    for index in tqdm(range(count), desc=f"features: {split}", mininterval=5):
        spec, path = build_video(split_seed(split, index), seconds), folder / f"{split}-{index}.pt"
        if not path.exists():
            part = path.with_suffix(".part")
            torch.save(video_features(visual, spec, np.random.default_rng([19, index])), part)
            part.replace(path)
        videos.append(CachedVideo(spec, torch.load(path)))
    return videos


def rows_of(videos: list[CachedVideo], per_kind: int, seed: int) -> list[tuple[Question, dict]]:
    """Up to `per_kind` questions of every kind about each video, and their rows."""
    made = []
    for video in videos:
        rng = np.random.default_rng([43, seed, video.spec.seed])
        for number, question in enumerate(make_questions(video.spec, rng, per_kind=per_kind)):
            made.append((question, parse_row(to_record(question, video.spec, number))))
    return made


class _Steps(TrainerCallback):
    def __init__(self, bar: tqdm):
        self._bar = bar

    def on_step_end(self, args, state, control, **kwargs):
        self._bar.update()


def train(model, processor, collator, rows: list[dict], losses: tuple[str, ...], seed: int, work: Path, settings, bar):
    """Train the model in place; the trainer's log of losses."""
    arguments = NTLBGTrainingArguments(
        output_dir=str(work / "trainer"),
        stage="selection",
        **{f"{name}_weight": float(name in losses) for name in LOSSES[1:]},
        train_representatives=settings.train_k,
        fade_share=settings.fade_share,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(10, settings.steps // 2),
        weight_decay=0.01,
        logging_steps=max(1, settings.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    trainer = NTLBGTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=processor,
        callbacks=[_Steps(bar)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss_task" in line]


@torch.no_grad()
def evaluate(model, collator, asked: list[tuple[Question, dict]], k: int, choose=None, batch: int = 16) -> dict:
    """Ask the model every question, with its own choice of k groups or that of `choose(question, total, k)`.

    Returns:
        For each question `right` (exact match, by teacher forcing: every token is the argmax given those before),
        `found` (share of the spans of which a group was kept; None without spans), `constraint` (Var(m) / mean(m)^2 of
        the kept groups' squared Mahalanobis distances m) and `uniformity` (entropy of the kept times in k equal bins
        over log k), the last two the specification's figures and None for choices that are given.
    """
    model.eval()
    results: dict[str, list] = {"right": [], "found": [], "constraint": [], "uniformity": []}
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        inputs = collator([row for _, row in part])
        totals = inputs["video_grid_thw"][:, 0].tolist()
        if choose is not None:
            times = inputs["group_timestamps"].split(totals)
            inputs["selection"] = [
                Selection.from_indices(torch.as_tensor(choose(question, total, k)), seconds)
                for (question, _), total, seconds in zip(part, totals, times, strict=True)
            ]
        output = model(**inputs, num_representatives=k)
        labels = output.labels[:, 1:]
        right = ((output.logits[:, :-1].argmax(-1) == labels) | (labels == IGNORED_LABEL)).all(dim=1)
        results["right"] += right.tolist()
        for (question, _), total, selection in zip(part, totals, output.selections, strict=True):
            kept = selection.indices.numpy()
            spans = [] if question.is_global else span_groups(question, total)
            results["found"].append(float(np.mean([np.isin(span, kept).any() for span in spans])) if spans else None)
            results["constraint"].append(float(selection.spread) if choose is None else None)
            results["uniformity"].append(_uniformity(kept, total) if choose is None else None)
    return results


def _uniformity(kept: np.ndarray, total: int) -> float:
    share = np.bincount(kept * len(kept) // total, minlength=len(kept)) / len(kept)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(len(kept)))


def run_bench(model_name: str, work: Path, settings: Settings, seeds: list[int], only: list[str]) -> dict:
    """All runs asked for, each kept in `work` and not repeated.

    Returns:
        {"kinds", "videos": of each question, "given": {"uniform", "oracle", "untrained": result}, "runs":
        {configuration: a result for each seed}}.
    """
    commit = current_commit()
    base = NTLBGForConditionalGeneration.from_pretrained(model_name).float()
    processor = NTLBGProcessor.from_pretrained(model_name)
    visual = base.vlm.model.visual.eval()
    sources = {
        "train": (settings.train_videos, settings.train_seconds),
        settings.split: (settings.eval_videos, settings.seconds),
    }
    videos = {split: cached_videos(work, visual, split, *source) for split, source in sources.items()}
    collator = NTLBGDataCollator(
        processor, features=WorldFeatures(processor, [*videos["train"], *videos[settings.split]])
    )
    train_rows = [row for _, row in rows_of(videos["train"], 2, 0)]
    asked = rows_of(videos[settings.split], 1, 1)

    runs = work / "runs" / hash_of([asdict(settings), hash_of(weights_digests(base.vlm))])[:16]
    runs.mkdir(parents=True, exist_ok=True)
    for name, choose in GIVEN.items():
        if not (runs / f"{name}.json").exists():
            _keep(runs / f"{name}.json", evaluate(fresh_model(base, 0), collator, asked, settings.k, choose))
    if not (runs / "untrained.json").exists():
        _keep(runs / "untrained.json", evaluate(fresh_model(base, 0), collator, asked, settings.k))
    todo = [(seed, name) for seed in seeds for name in only if not (runs / f"{_file_name(name)}-{seed}.json").exists()]
    lengths = {name: settings.steps * TIMES_THE_STEPS.get(name, 1) for name in only}
    with tqdm(total=sum(lengths[name] for _, name in todo), desc="training steps", mininterval=5) as bar:
        for seed, name in todo:
            bar.set_postfix_str(f"{name}, seed {seed}")
            began, model = time.process_time(), fresh_model(base, seed)
            of_run = replace(settings, steps=lengths[name])
            log = train(model, processor, collator, train_rows, CONFIGURATIONS[name], seed, work, of_run, bar)
            result = evaluate(model, collator, asked, settings.k)
            seconds = time.process_time() - began
            told = {"log": log, "cpu_seconds": seconds, "commit": commit}
            _keep(runs / f"{_file_name(name)}-{seed}.json", result | told)
    there: dict[str, list[dict]] = {}
    for name in only:
        kept = [runs / f"{_file_name(name)}-{seed}.json" for seed in seeds]
        there[name] = [json.loads(path.read_text()) for path in kept]
    return {
        "kinds": [question.kind for question, _ in asked],
        "videos": [row["video_id"] for _, row in asked],
        "given": {name: json.loads((runs / f"{name}.json").read_text()) for name in (*GIVEN, "untrained")},
        "runs": there,
    }


def _file_name(configuration: str) -> str:
    return configuration.replace(" ", "").replace("+", "_").replace(",", "_")


def _keep(path: Path, result: dict) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing and, when all is there, write JSON, Markdown and PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/ntlbg-tiny")
    parser.add_argument("--work", type=Path, default=Path("build/losses"), help="folder of features and runs")
    parser.add_argument("--out", type=Path, help="path without suffix of the page; none is written without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(CONFIGURATIONS), default=list(CONFIGURATIONS))
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    found = run_bench(options.model, options.work, settings, options.seeds, options.only)
    result = summarise(found) | {
        "settings": asdict(settings),
        "seeds": options.seeds,
        "command": f"python -m ntlbg.evaluation.loss_ablation {_flags(settings)}".strip(),
    }
    picture = "losses" if options.out is None else options.out.name
    page = to_markdown(result, picture)
    print(page)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(page, encoding="utf-8")
        draw(result, options.out.with_suffix(".png"))


def _flags(settings: Settings) -> str:
    usual = asdict(Settings())
    return " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in asdict(settings).items() if value != usual[name]
    )


if __name__ == "__main__":
    main()
