"""When, not only what: three ways to write times, and a span head, side by side on unseen videos of the world.

    python -m ntlbg.evaluation.grounding_bench --out docs/benchmarks/grounding

ntlbg-tiny with a span head is trained by NTLBGTrainer on moments of the procedural world (stage "joint": the language
model in full, the vision tower frozen): first on all formats together, every batch in one, and from there on each
format by itself. Half of all batches are shown the groups that the model chooses, the others as many evenly spaced
ones, so that neither is new to it when it is asked. The test videos' queries are worded as no training query is. What
was trained and answered is kept in the work folder, so that a bench that was cut off is taken up again.
"""

import argparse
import copy
import json
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.frozen_features import FrozenFeatures
from ntlbg.data.qa_records import parse_row
from ntlbg.data.questions import uniform_groups
from ntlbg.data.world import split_seed
from ntlbg.data.world_moments import build_moment_video, moment_records
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.grounding_report import draw, summarise, to_markdown
from ntlbg.fingerprints import hash_of, weights_digests
from ntlbg.grounding.spans import saliency, spans_of_curve
from ntlbg.grounding.tasks import Grounding, read_grounded
from ntlbg.grounding.time_tokens import add_time_tokens
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.trainer import NTLBGTrainer


# Name: (time format, whether numbers are drawn on the frames, share of the batches while all are learnt together).
FORMATS = {
    "numbers": ("numbers", True, 0.2),
    "numbers, none drawn": ("numbers", False, 0.2),
    "tokens": ("tokens", False, 0.4),
    "text": ("text", False, 0.2),
}
FRAMES = ("ntlbg", "uniform")
TASK = "moment"
FRAME_PIXELS = 112  # side of the files


@dataclass(frozen=True)
class Settings:
    """What decides the trained model, and what it is asked.

    Args:
        train_videos, videos: number of videos; `split` is that of the latter.
        steps, batch, learning_rate: of the training on all formats; the rate rises for 50 steps and falls on a half
            cosine. own_steps, own_learning_rate: of the training on each format by itself.
        joint_k, k: groups shown, of 64 of two seconds, while all formats are learnt, and from then on.
        context_window: groups around a representative that its context sees.
        span_weight: of L_span.
    """

    split: str = "test"
    train_videos: int = 400
    videos: int = 60
    steps: int = 1400
    batch: int = 16
    learning_rate: float = 2e-3
    own_steps: int = 225
    own_learning_rate: float = 1e-3
    joint_k: int = 8
    k: int = 16
    context_window: int = 17
    span_weight: float = 4.0
    seed: int = 0

    def of_training(self) -> dict:
        """All but what the model is asked afterwards."""
        return {name: value for name, value in asdict(self).items() if name not in ("split", "videos")}


class MixedCollator:
    """Batches of one format each and of one kind of frames, drawn by what rows are in them.

    Args:
        collators: by name of `FORMATS`.
        k: evenly spaced groups of every other batch.
    """

    def __init__(self, collators: dict[str, NTLBGDataCollator], k: int):
        self._collators, self._k = collators, k
        shares = np.array([FORMATS[name][2] for name in collators])
        self._shares = shares / shares.sum()

    def __call__(self, rows: list[dict]) -> dict:
        rng = np.random.default_rng(zlib.crc32(" ".join(row["id"] for row in rows).encode()))
        batch = self._collators[rng.choice(list(self._collators), p=self._shares)](rows)
        return with_even_groups(batch, self._k) if rng.random() < 0.5 else batch


def with_even_groups(batch: dict, k: int) -> dict:
    """The same batch with k evenly spaced groups of every video to be shown."""
    totals = batch["video_grid_thw"][:, 0].tolist()
    times = batch["group_timestamps"].split(totals)
    even = [
        Selection.from_indices(torch.as_tensor(uniform_groups(total, k)), seconds)
        for total, seconds in zip(totals, times, strict=True)
    ]
    return batch | {"selection": even}


def filmed_rows(folder: Path, split: str, count: int) -> list[dict]:
    """Moments of the first `count` videos of a split, whose files are written unless the folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in tqdm(range(count), desc=f"videos: {split}", mininterval=5):
        spec = build_moment_video(split_seed(split, index))
        path = folder / f"{spec.video_id}.mp4"
        if not path.exists():
            part = path.with_suffix(".part")
            write_video(spec, part, size=FRAME_PIXELS)
            part.replace(path)
        wording = "train" if split == "train" else "heldout"
        rows += map(parse_row, moment_records(spec, wording=wording, video_path=str(path)))
    return rows


class Bench:
    """The model to be trained, its collators by format, and the rows."""

    def __init__(self, name: str, work: Path, settings: Settings):
        self.settings, self.work = settings, work
        config = NTLBGForConditionalGeneration.config_class.from_pretrained(name)
        config.span_head, config.context_window = True, settings.context_window
        config.num_representatives = settings.joint_k
        torch.manual_seed(settings.seed)
        self.model = NTLBGForConditionalGeneration.from_pretrained(name, config=config).float().eval()
        self.processor = NTLBGProcessor.from_pretrained(name)
        add_time_tokens(self.model, self.processor.tokenizer)
        self.plain = NTLBGForConditionalGeneration.from_pretrained(name).float().eval()
        add_time_tokens(self.plain, self.processor.tokenizer)
        self.rows = {
            "train": filmed_rows(work / "videos", "train", settings.train_videos),
            settings.split: filmed_rows(work / "videos", settings.split, settings.videos),
        }
        self.features = {drawn: self._features(drawn) for drawn in (False, True)}
        self.collators = {
            name: NTLBGDataCollator(
                self.features[drawn][1], features=self.features[drawn][0], grounding=Grounding(written)
            )
            for name, (written, drawn, _) in FORMATS.items()
        }
        of_model = hash_of([settings.of_training(), FORMATS, weights_digests(self.model)])
        print(of_model)
        self.folder = work / f"run-{of_model[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def _features(self, numbered: bool) -> tuple[FrozenFeatures, NTLBGProcessor]:
        processor = copy.deepcopy(self.processor)
        processor.tokenizer = self.processor.tokenizer
        processor.video_processor.number_frames = numbered
        features = FrozenFeatures(self.work / "features", self.model.requires_grad_(False), processor)
        features.prepare(self.rows[self.settings.split])
        return features, processor

    def trained(self, name: str | None = None) -> NTLBGForConditionalGeneration:
        """The model that has learnt all formats, or, from there on, the named one by itself; trained unless the work
        folder has it."""
        settings, own = self.settings, name is not None
        kept = self.folder / ("model" if name is None else f"model-{_file_name(name)}")
        if not (kept / "done.json").exists():
            model = self.trained() if own else self.model
            for features, _ in self.features.values():
                features.prepare(self.rows["train"])
            k = settings.k if own else settings.joint_k
            model.config.num_representatives = k
            collators = {name: self.collators[name]} if own else self.collators
            began = time.perf_counter()
            log = self._fit(model, MixedCollator(collators, k), own)
            model.save_pretrained(kept)
            told = {"seconds": time.perf_counter() - began, "commit": current_commit(), "log": log}
            (kept / "done.json").write_text(json.dumps(told))
        return NTLBGForConditionalGeneration.from_pretrained(kept).eval()

    def _fit(self, model, collator: MixedCollator, own: bool) -> list[dict]:
        settings = self.settings
        arguments = NTLBGTrainingArguments(
            output_dir=str(self.folder / "trainer"),
            stage="joint",
            ntlbg_weight=0.0,
            align_weight=0.0,
            context_weight=0.0,
            span_weight=settings.span_weight,
            fade_share=0.0,
            max_steps=settings.own_steps if own else settings.steps,
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.own_learning_rate if own else settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=20 if own else 50,
            weight_decay=0.01,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_num_workers=1,
            seed=settings.seed,
        )
        trainer = NTLBGTrainer(
            model=model,
            args=arguments,
            train_dataset=self.rows["train"],
            data_collator=collator,
            processing_class=self.processor,
        )
        trainer.train()
        return trainer.state.log_history

    @torch.no_grad()
    def answers(self, model, name: str, frames: str, batch: int = 32) -> dict:
        """Ask every row in one format.

        Returns:
            For each row `texts`, and `spans`: the first one named, None where none can be read.
        """
        rows = self.rows[self.settings.split]
        collator = self.collators[name].for_generation()
        result: dict[str, list] = {"texts": [], "spans": []}
        for start in tqdm(range(0, len(rows), batch), desc=f"{name}, {frames}", mininterval=5):
            inputs = collator(rows[start : start + batch])
            times = inputs.pop("times")
            del inputs["rows"]
            if frames == "uniform":
                inputs = with_even_groups(inputs, self.settings.k)
            k = self.settings.k
            sequences = model.generate(**inputs, num_representatives=k, do_sample=False, max_new_tokens=48)
            new = sequences[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            result["texts"] += texts
            for text, of_row in zip(texts, times, strict=True):
                said, _ = read_grounded(TASK, text, of_row)
                result["spans"].append(list(said.spans[0]) if said is not None and said.spans else None)
        return result

    @torch.no_grad()
    def moments(self, model, frames: str, batch: int = 32) -> dict:
        """What the span head finds: for each row the surest of `spans`, and `saliency`."""
        rows = self.rows[self.settings.split]
        collator = self.collators["text"].for_generation()
        result: dict[str, list] = {"spans": [], "saliency": []}
        for start in range(0, len(rows), batch):
            inputs = collator(rows[start : start + batch])
            del inputs["rows"], inputs["times"]
            if frames == "uniform":
                inputs = with_even_groups(inputs, self.settings.k)
            for selection in model(**inputs, num_representatives=self.settings.k).selections:
                result["spans"].append(selection.moment_spans[0].tolist())
                result["saliency"].append(selection.saliency.tolist())
        return result

    @torch.no_grad()
    def curve(self, batch: int = 32) -> dict:
        """What the untrained checkpoint's relevance says alone, as `ntlbg ground` reads it."""
        rows = self.rows[self.settings.split]
        result: dict[str, list] = {"spans": [], "saliency": []}
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            inputs = self.collators["text"](part)
            for row, selection in zip(part, self.plain.select(**inputs), strict=True):
                curve, seconds = selection.relevance.tolist(), selection.group_timestamps.tolist()
                found = spans_of_curve(curve, seconds, (0.0, row["duration"]), 1, groups=True)
                result["spans"].append([found[0].start, found[0].end] if found else None)
                result["saliency"].append(saliency(curve))
        return result

    def results(self) -> dict[str, dict]:
        """All that is compared, by name; each is kept in the work folder and not asked again."""
        asked = {}
        for frames in FRAMES:
            asked[f"span head | {frames}"] = lambda frames=frames: self.moments(self.trained(), frames)
        for name in FORMATS:
            for frames in FRAMES:
                asked[f"{name} | {frames}"] = lambda name=name, frames=frames: self.answers(
                    self.trained(name), name, frames
                )
        asked["curve, untrained | ntlbg"] = self.curve
        for name in ("numbers", "numbers, none drawn"):
            asked[f"{name}, untrained | ntlbg"] = lambda name=name: self.answers(self.plain, name, "ntlbg")
        results = {}
        for name, ask in asked.items():
            path = self.folder / f"{self.settings.split}-{self.settings.videos}-{_file_name(name)}.json"
            if not path.exists():
                part = path.with_suffix(".part")
                part.write_text(json.dumps(ask()))
                part.replace(path)
            results[name] = json.loads(path.read_text())
        return results


def _file_name(name: str) -> str:
    return name.replace(", ", "_").replace(" | ", "-").replace(" ", "_")


def main(arguments: list[str] | None = None) -> None:
    """Train and ask what is missing, then write JSON, Markdown and PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/ntlbg-tiny")
    parser.add_argument("--work", type=Path, default=Path("build/grounding"), help="folder of videos, features, runs")
    parser.add_argument("--out", type=Path, help="path without suffix of the page; none is written without it")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    bench = Bench(options.model, options.work, settings)
    results = bench.results()
    runs = [json.loads(path.read_text()) for path in sorted(bench.folder.glob("model*/done.json"))]
    flags = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in asdict(settings).items()
        if value != getattr(Settings(), name)
    ]
    result = summarise(results, bench.rows[settings.split]) | {
        "settings": asdict(settings),
        "train_seconds": [run["seconds"] for run in runs],
        "commits": {"trained": sorted({run["commit"] for run in runs}), "asked": current_commit()},
        "command": " ".join(["python -m ntlbg.evaluation.grounding_bench --out docs/benchmarks/grounding", *flags]),
    }
    page = to_markdown(result, "grounding" if options.out is None else options.out.name)
    print(page)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(page, encoding="utf-8")
        draw(result, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
