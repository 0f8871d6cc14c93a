"""The procedural world as a builder of `datasets`: `load_qa("ntlbg.data.world_builder:World", config="256s")`.

Videos are rendered into the builder's cache folder when a split is made, and found there again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from ntlbg.data.questions import to_record
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video


@dataclass
class WorldConfig(datasets.BuilderConfig):
    """
    Args:
        seconds: length of each video, even, at least 128.
        train, validation, test: number of videos.
        fps, size: of the files, see `write_video`.
    """

    seconds: int = 256
    train: int = 512
    validation: int = 64
    test: int = 64
    fps: int = 2
    size: int = 224


class World(datasets.GeneratorBasedBuilder):
    """Questions about rendered videos with known events; see `ntlbg.data.world`."""

    BUILDER_CONFIG_CLASS = WorldConfig
    BUILDER_CONFIGS = [
        WorldConfig(name="256s", description="videos of 256 seconds"),
        WorldConfig(name="1024s", description="videos of 1024 seconds", seconds=1024, train=128),
        WorldConfig(
            name="smoke", description="two short videos a split", seconds=128, train=2, validation=2, test=2, size=64
        ),
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
                }
            ),
        )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "count": getattr(self.config, split)})
            for split in ("train", "validation", "test")
        ]

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict]]:
        # Beside the tables and not in them, whose folder is replaced when they are made again.
        folder = Path(self._cache_dir_root) / "ntlbg_world" / f"{self.config.fps}fps-{self.config.size}"
        folder.mkdir(parents=True, exist_ok=True)
        for spec, questions in split_questions(split, count, duration=self.config.seconds):
            path = folder / f"{spec.video_id}.mp4"
            if not path.is_file():
                part = path.with_suffix(f".{os.getpid()}.part")
                write_video(spec, part, fps=self.config.fps, size=self.config.size)
                part.replace(path)
            for number, question in enumerate(questions):
                record = to_record(question, spec, number, str(path))
                yield record["id"], record | {"metadata": json.dumps(record["metadata"])}


__all__ = ["World", "WorldConfig"]
