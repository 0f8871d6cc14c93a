"""The procedural world as a builder of `datasets`: `load_qa("ntlbg.data.world_builder:World", config="256s")`.

Videos are rendered into the builder's cache folder when a split is made, and found there again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets

from ntlbg.data.world import WITHHELD_PAIRS, VideoSpec, split_seed
from ntlbg.data.world_dataset import mixed_quality, records_of, split_questions
from ntlbg.data.world_moments import build_moment_video, moment_records
from ntlbg.data.world_video import write_video


_SALIENCY = {
    "saliency": {
        "clip_len": datasets.Value("float64"),
        "clip_ids": datasets.List(datasets.Value("int64")),
        "scores": datasets.List(datasets.List(datasets.Value("float64"))),
    }
}

_OPTIONS = {"options": datasets.List(datasets.Value("string")), "answer_index": datasets.Value("int64")}
_SUBTITLES = {
    "subtitles": datasets.List(
        {"start": datasets.Value("float64"), "end": datasets.Value("float64"), "text": datasets.Value("string")}
    )
}


@dataclass
class WorldConfig(datasets.BuilderConfig):
    """
    Args:
        seconds: length of each video, even, at least 128.
        train, validation, test: number of videos; a split of none is left out.
        test_of: the range of seeds, a key of `SPLITS`, that the videos of the split "test" are drawn from.
        per_kind: questions of each kind about a video, at most.
        fps, size: of the files, see `write_video`.
        options: questions as multiple choice, see `world_options`.
        captions: rows with `subtitles`, and questions about what is said, see `world_captions`.
        withhold: videos without `WITHHELD_PAIRS`, for measuring what a model does with pairs it never saw.
        mixed: the training videos differ in length, size and quality, see `mixed_seconds` and `mixed_quality`.
        moments: videos and rows of `world_moments` instead: when is each object on screen, and how well.
    """

    seconds: int = 256
    train: int = 512
    validation: int = 64
    test: int = 64
    test_of: str = "test"
    per_kind: int = 1
    fps: int = 2
    size: int = 224
    mixed: bool = False
    moments: bool = False
    withhold: bool = False
    options: bool = False
    captions: bool = False


_MIXED = WorldConfig(
    name="mixed",
    description="training videos of many lengths, sizes and qualities",
    train=600,
    per_kind=4,
    fps=1,
    mixed=True,
)


def _tests() -> list[WorldConfig]:
    """What only evaluates, with the split "test" alone: videos of 256 seconds, of unseen backgrounds, with unseen
    pairs, and longer ones; each openly, with "-options" as multiple choice, and with "-captions" as multiple choice
    with what is said.
    """
    kinds = [
        WorldConfig(name="test", description="test videos of 256 seconds"),
        WorldConfig(name="test-background", description="scenes never seen in training", test_of="test-background"),
        WorldConfig(name="test-pairs", description="colours and shapes never seen together", test_of="test-pairs"),
        WorldConfig(name="test-long-2x", description="test videos of 512 seconds", seconds=512),
        WorldConfig(name="test-long-4x", description="test videos of 1024 seconds", seconds=1024),
        WorldConfig(name="test-smoke", description="two short videos", seconds=128, test=2, size=64),
    ]
    found = []
    for kind in kinds:
        for suffix, more in (
            ("", {}),
            ("-options", {"options": True}),
            ("-captions", {"options": True, "captions": True}),
        ):
            found.append(replace(kind, name=kind.name + suffix, train=0, validation=0, **more))
    return found


class World(datasets.GeneratorBasedBuilder):
    """Questions about rendered videos with known events; see `ntlbg.data.world`."""

    BUILDER_CONFIG_CLASS = WorldConfig
    BUILDER_CONFIGS = [
        WorldConfig(name="256s", description="videos of 256 seconds"),
        WorldConfig(name="1024s", description="videos of 1024 seconds", seconds=1024, train=128),
        _MIXED,
        replace(
            _MIXED,
            name="mixed-withheld",
            description='the same without the pairs that the split "test-pairs" asks about',
            withhold=True,
        ),
        WorldConfig(
            name="smoke", description="two short videos a split", seconds=128, train=2, validation=2, test=2, size=64
        ),
        WorldConfig(
            name="grounding",
            description="moments and highlights in videos of 128 seconds",
            seconds=128,
            train=400,
            validation=60,
            test=100,
            size=112,
            moments=True,
        ),
        WorldConfig(
            name="grounding-smoke",
            description="the same in two short videos a split",
            seconds=64,
            train=2,
            validation=2,
            test=2,
            size=64,
            moments=True,
        ),
        *_tests(),
    ]
    DEFAULT_CONFIG_NAME = "256s"

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        span = datasets.List(datasets.Value("float64"))
        return datasets.DatasetInfo(
            description="Questions about videos of the procedural world.",
            features=datasets.Features(
                {
                    **dict.fromkeys(("id", "video_id", "question", "answer", "answer_type", "video_path"), text),
                    "duration": datasets.Value("float64"),
                    "spans": datasets.List(span),
                    "metadata": text,
                    **(_SALIENCY if self.config.moments else {}),
                    **(_OPTIONS if self.config.options else {}),
                    **(_SUBTITLES if self.config.captions else {}),
                }
            ),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "count": getattr(self.config, split)})
            for split in ("train", "validation", "test")
            if getattr(self.config, split)
        ]

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict]]:
        # Beside the tables and not in them, whose folder is replaced when they are made again.
        config, mixed = self.config, self.config.mixed and split == "train"
        name = f"{config.fps}fps-" + ("mixed" if mixed else f"{config.size}")
        folder = Path(self._cache_dir_root) / "ntlbg_world" / name
        folder.mkdir(parents=True, exist_ok=True)
        for index, (spec, make_records) in enumerate(self._videos(split, count, mixed)):
            path = folder / f"{spec.video_id}.mp4"
            if not path.is_file():
                part = path.with_suffix(f".{os.getpid()}.part")
                quality = mixed_quality(index) if mixed else {"size": config.size}
                write_video(spec, part, fps=config.fps, **quality)
                part.replace(path)
            for record in make_records(str(path)):
                yield record["id"], record | {"metadata": json.dumps(record["metadata"])}

    def _videos(self, split: str, count: int, mixed: bool) -> Iterator[tuple[VideoSpec, Callable[[str], list[dict]]]]:
        """Videos, and for each what makes its records of the path of its file."""
        config = self.config
        if config.moments:
            wording = "train" if split == "train" else "heldout"
            for index in range(count):
                spec = build_moment_video(split_seed(split, index), config.seconds)
                yield spec, lambda path, spec=spec: moment_records(spec, wording=wording, video_path=path)
            return
        videos = split_questions(
            config.test_of if split == "test" else split,
            count,
            duration=None if mixed else config.seconds,
            per_kind=config.per_kind,
            withheld=WITHHELD_PAIRS if config.withhold else frozenset(),
            captions=config.captions,
        )
        columns = {"options": config.options, "captions": config.captions}
        for spec, questions in videos:
            yield spec, lambda path, spec=spec, questions=questions: records_of(spec, questions, path, **columns)


__all__ = ["World", "WorldConfig"]
