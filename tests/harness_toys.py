"""Toy copies of lmms-eval's video tasks, as its documentation has tasks made: three lines over the official file, a
few documents, and videos of the procedural world made on the spot.
"""

import json
from pathlib import Path

import numpy as np

from ntlbg.data.questions import make_questions
from ntlbg.data.world import SHAPES, build_video, split_seed
from ntlbg.data.world_render import PALETTE
from ntlbg.data.world_video import write_video


SECONDS = 128
LETTERS = "ABCDE"
CUES = [(2.0, 6.0, "a red square"), (60.0, 66.0, "in the middle"), (120.0, 124.0, "near the end")]

# Task -> its official file, where its videos are, and its split. Ours come from our own folder of tasks.
OFFICIAL = {
    "longvideobench_val_v": (
        "longvideobench/longvideobench_val_v.yaml",
        "datasets/longvideobench/videos",
        "validation",
    ),
    "videomme": ("videomme/videomme.yaml", "videomme/data", "test"),
    "videomme_w_subtitle": ("videomme/videomme_w_subtitle.yaml", "videomme/data", "test"),
    "mlvu_dev": ("mlvu/mlvu_dev.yaml", "mlvu", "test"),
    "temporal_grounding_charades": ("charades_sta/charades.yaml", "charades_sta/Charades_v1_480", "test"),
}
OURS = {
    "videomme_selected_subtitles": ("videomme/data", "test"),
    "longvideobench_val_v_selected_subtitles": ("datasets/longvideobench/videos", "validation"),
}


def make_toys(root: Path, official: Path, ours: Path) -> None:
    """`root`/tasks for --include_path, and `root`/hf for HF_HOME; `official` and `ours` are folders of tasks."""
    spec = build_video(split_seed("test", 0), SECONDS)
    questions = make_questions(spec, np.random.default_rng(0), kinds=("retrieve",), per_kind=3, free=False)
    write_video(spec, root / "world.mp4", fps=1, size=56)
    video = (root / "world.mp4").read_bytes()
    for name, (source, folder, split) in (
        {name: (official / file, *rest) for name, (file, *rest) in OFFICIAL.items()}
        | {name: (ours / f"{name}.yaml", *rest) for name, rest in OURS.items()}
    ).items():
        (root / "hf" / folder).mkdir(parents=True, exist_ok=True)
        (root / "hf" / folder / "world.mp4").write_bytes(video)
        (root / "data" / name).mkdir(parents=True)
        documents = [_document(name, number, question) for number, question in enumerate(questions)]
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (root / "data" / name / f"{split}.jsonl").write_text(lines)
        (root / "tasks").mkdir(exist_ok=True)
        (root / "tasks" / f"toy_{name}.yaml").write_text(
            f"include: {source}\ntask: toy_{name}\ndataset_path: {root / 'data' / name}\n"
        )
    _write_subtitles(root / "hf")


def _write_subtitles(home: Path) -> None:
    (home / "videomme" / "subtitle").mkdir()
    lines = []
    for number, (start, end, text) in enumerate(CUES, start=1):
        times = " --> ".join(f"00:{int(time) // 60:02}:{int(time) % 60:02},000" for time in (start, end))
        lines.append(f'{number}\n{times}\n<font color="white" size=".72c">{text}</font>\n')
    (home / "videomme" / "subtitle" / "world.srt").write_text("\n".join(lines))
    (home / "datasets" / "longvideobench" / "subtitles").mkdir()
    cues = [{"timestamp": [start + 10, end + 10], "text": text} for start, end, text in CUES]
    (home / "datasets" / "longvideobench" / "subtitles" / "world_en.json").write_text(json.dumps(cues))


def _document(task: str, number: int, question) -> dict:
    kind = list(PALETTE) if question.answer in PALETTE else list(SHAPES)
    others = [other for other in kind if other != question.answer][: 2 + number]
    options = [*others[:number], question.answer, *others[number:]]
    letter = LETTERS[options.index(question.answer)]
    if "longvideobench" in task:
        padded = [*options, "N/A", "N/A", "N/A"][:5]
        return {
            "id": f"q{number}",
            "video_id": "world",
            "video_path": "world.mp4",
            "subtitle_path": "world_en.json",
            "starting_timestamp_for_subtitles": 10,
            "duration": float(SECONDS),
            "duration_group": 600,
            "question": question.text,
            "question_category": "O2E",
            "correct_choice": LETTERS.index(letter),
            **{f"option{place}": option for place, option in enumerate(padded)},
        }
    if "videomme" in task:
        return {
            "video_id": "001",
            "videoID": "world",
            "duration": "medium",
            "domain": "Knowledge",
            "sub_category": "Geography",
            "question_id": f"001-{number}",
            "task_type": "Counting Problem",
            "question": question.text,
            "options": [f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False)][:4],
            "answer": letter,
        }
    if "mlvu" in task:
        lines = [f"({mark}) {option}" for mark, option in zip(LETTERS, options, strict=False)]
        text = "\n".join([question.text, *lines])
        return {
            "video_name": "world.mp4",
            "question": text,
            "answer": letter,
            "task_type": ("count", "ego")[number % 2],
        }
    return {"video": "world.mp4", "caption": question.text, "timestamp": [float(t) for t in question.spans[0]]}
