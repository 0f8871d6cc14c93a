"""Published benchmarks as builders of `datasets`, from annotations and videos that lie on this machine.

>>> from ntlbg.data.benchmark_builder import Benchmark
>>> builder = Benchmark(config_name="videomme", annotations="test.parquet", videos="videos/")  # doctest: +SKIP
>>> rows = builder.as_streaming_dataset(split="test")  # or download_and_prepare() and as_dataset()  # doctest: +SKIP

`load_qa(list(rows), video_root="videos/")` checks them as it checks every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets

from ntlbg.data.convert_annotations import convert_annotations
from ntlbg.data.converters import BENCHMARKS
from ntlbg.data.video_folder import VideoFolder
from ntlbg.errors import InputError


_TEXT, _SECONDS = datasets.Value("string"), datasets.Value("float64")

# One type for all benchmarks; what a row has not is None, which `parse_row` takes for absent.
FEATURES = datasets.Features(
    {
        **dict.fromkeys(("id", "video_id", "question", "answer", "answer_type", "video_path"), _TEXT),
        "duration": _SECONDS,
        "options": datasets.List(_TEXT),
        "answer_index": datasets.Value("int64"),
        "clip": datasets.List(_SECONDS),
        "spans": datasets.List(datasets.List(_SECONDS)),
        "captions": datasets.List(_TEXT),
        "saliency": {
            "clip_len": _SECONDS,
            "clip_ids": datasets.List(datasets.Value("int64")),
            "scores": datasets.List(datasets.List(_SECONDS)),
        },
        "subtitles": datasets.List({"start": _SECONDS, "end": _SECONDS, "text": _TEXT}),
        "metadata": _TEXT,
    }
)


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """
    Args:
        annotations: as their authors publish them.
        videos: folder of the videos.
        split: what these annotations are.
    """

    annotations: str | None = None
    videos: str | None = None
    split: str = "test"

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The cache is named by what the annotations are, not by their path alone: they may be corrected."""
        state = {}
        if self.annotations is not None and Path(self.annotations).exists():
            found = Path(self.annotations).stat()
            state = {"annotations_size": found.st_size, "annotations_changed": found.st_mtime_ns}
        return super().create_config_id(config_kwargs | state, custom_features)


class Benchmark(datasets.GeneratorBasedBuilder):
    """One of `converters.BENCHMARKS`; its name is the configuration."""

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    BUILDER_CONFIGS = [BenchmarkConfig(name=name, description=title) for name, title in BENCHMARKS.items()]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.config.description, features=FEATURES)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        if self.config.annotations is None or self.config.videos is None:
            raise InputError(
                f"the builder of {self.config.name} needs annotations= and videos=, and got "
                f"{self.config.annotations!r} and {self.config.videos!r}"
            )
        return [datasets.SplitGenerator(name=self.config.split)]

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        converted = convert_annotations(self.config.name, self.config.annotations, VideoFolder(self.config.videos))
        if converted.dropped:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in converted.reasons().items())
            datasets.logging.get_logger(__name__).warning(
                "%d rows of %s are left out (%s)", len(converted.dropped), self.config.name, reasons
            )
        for row in converted.rows:
            full = dict.fromkeys(FEATURES) | row
            yield row["id"], full | {"metadata": json.dumps(row["metadata"], ensure_ascii=False)}


__all__ = ["FEATURES", "Benchmark", "BenchmarkConfig"]
