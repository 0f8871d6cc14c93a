"""Files of the procedural world: a split as mp4 files and one JSONL of questions, and the demo video."""

import json
from os import PathLike
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ntlbg.data.questions import GLOBAL_KINDS, KINDS, Question, make_questions, to_record
from ntlbg.data.world import BACKGROUNDS, HELDOUT_BACKGROUNDS, WITHHELD_PAIRS, VideoSpec, build_video, split_seed
from ntlbg.data.world_captions import caption_questions, caption_track
from ntlbg.data.world_options import with_options
from ntlbg.data.world_video import write_video


DEMO_SECONDS = 600
MIXED_SECONDS = {128: 0.15, 192: 0.15, 256: 0.30, 320: 0.10, 400: 0.10, 512: 0.10, 640: 0.10}  # seconds: share


def mixed_seconds(index: int) -> int:
    """Seconds of the `index`-th training video: a model must not know one length only."""
    return int(np.random.default_rng([23, index]).choice(list(MIXED_SECONDS), p=list(MIXED_SECONDS.values())))


def mixed_quality(index: int) -> dict[str, int]:
    """Side in pixels and x264 quality of the `index`-th training video's file, as `write_video` takes them."""
    rng = np.random.default_rng([53, index])
    return {"size": int(rng.choice((112, 112, 112, 112, 168, 224))), "crf": int(rng.integers(18, 31))}


def split_questions(
    split: str,
    count: int,
    *,
    duration: int | None = 256,
    per_kind: int = 1,
    wording: str = "train",
    free: bool = True,
    first: int = 0,
    withheld: frozenset[tuple[str, str]] = frozenset(),
    captions: bool = False,
) -> list[tuple[VideoSpec, list[Question]]]:
    """The videos `first` .. `first + count - 1` of a split and their questions, without drawing a picture.

    The questions of a video depend on its seed and on the arguments that word them, not on the other videos.

    Args:
        split: "test-background" has scenes never seen in training; as their names were not either, nobody is asked
            which was longest. "test-pairs" asks about `WITHHELD_PAIRS` only.
        duration: seconds of each video; None for `mixed_seconds`.
        withheld: (colour, shape) pairs that the videos do not show and nobody asks about.
        captions: behind the others, questions about what is said, see `caption_questions`.
    """
    unseen = split == "test-background"
    backgrounds = HELDOUT_BACKGROUNDS if unseen else BACKGROUNDS
    about = WITHHELD_PAIRS if split == "test-pairs" else None
    left_out = GLOBAL_KINDS if about else ("longest",) if unseen else ()
    kinds = tuple(kind for kind in KINDS if kind not in left_out)
    videos = []
    for index in range(first, first + count):
        seconds = mixed_seconds(index) if duration is None else duration
        spec = build_video(split_seed(split, index), seconds, backgrounds=backgrounds, withheld=withheld)
        rng = np.random.default_rng([37, spec.seed, spec.duration])
        questions = make_questions(spec, rng, kinds=kinds, per_kind=per_kind, wording=wording, free=free, about=about)
        if captions:
            questions += caption_questions(spec, per_kind=per_kind, wording=wording, about=about)
        videos.append((spec, questions))
    return videos


def records_of(
    spec: VideoSpec,
    questions: list[Question],
    video_path: str,
    *,
    options: bool = False,
    captions: bool = False,
) -> list[dict]:
    """The questions about a video as records of the project's JSONL format.

    Args:
        options: as multiple choice, see `world_options`.
        captions: with what is said as `subtitles`, see `world_captions`.
    """
    records = [to_record(question, spec, number, video_path) for number, question in enumerate(questions)]
    if options:
        records = [with_options(*both, spec) for both in zip(records, questions, strict=True)]
    if captions:
        said = caption_track(spec)
        records = [record | {"subtitles": said} for record in records]
    return records


def write_split(
    split: str,
    count: int,
    folder: str | PathLike,
    *,
    fps: int = 2,
    size: int = 224,
    options: bool = False,
    captions: bool = False,
    **wording: int | str | bool,
) -> Path:
    """Render videos of a split into `folder`/videos and write `folder`/questions.jsonl.

    Args:
        fps, size: of the files, see `write_video`.
        options, captions: see `records_of`; captions come with the questions that they answer.
        wording: passed to `split_questions` (duration, per_kind, wording, free, first).

    Returns:
        The path of the JSONL file; `video_path` in it is relative to `folder`.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    records = []
    videos = split_questions(split, count, captions=captions, **wording)
    for spec, questions in tqdm(videos, desc=f"rendering {split}"):
        path = Path("videos") / f"{spec.video_id}.mp4"
        write_video(spec, folder / path, fps=fps, size=size)
        records += records_of(spec, questions, path.as_posix(), options=options, captions=captions)
    return write_jsonl(records, folder / "questions.jsonl")


def write_jsonl(records: list[dict], path: str | PathLike) -> Path:
    """One JSON object per line, UTF-8."""
    path = Path(path)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def demo_video(seed: int) -> tuple[VideoSpec, list[Question]]:
    """A ten-minute video of the test split and seven or eight questions about it.

    Two each of what (`retrieve`), which first (`order`) and how many (`count`), how many scenes, and, where one scene
    is clearly the longest, which.

    Args:
        seed: number of the video within the test split; every number is another video.
    """
    spec = build_video(split_seed("test", seed), DEMO_SECONDS)
    rng = np.random.default_rng([41, spec.seed])
    questions = []
    for kind in KINDS:
        questions += make_questions(spec, rng, kinds=(kind,), per_kind=2, free=False)
    return spec, questions


def make_demo_video(
    seed: int, path: str | PathLike, *, fps: int = 2, size: int = 224
) -> tuple[VideoSpec, list[Question]]:
    """Write the ten-minute demo video to `path` (mp4) and return what happens in it and the questions, see
    `demo_video`.
    """
    spec, questions = demo_video(seed)
    write_video(spec, path, fps=fps, size=size)
    return spec, questions


__all__ = [
    "demo_video",
    "make_demo_video",
    "mixed_quality",
    "mixed_seconds",
    "records_of",
    "split_questions",
    "write_jsonl",
    "write_split",
]
