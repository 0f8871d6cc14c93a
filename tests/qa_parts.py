"""Rows and tiny videos for the tests of data, collator and cached features."""

import io
import json

import av
import numpy as np
from tiny_parts import moving_square, tiny_base_processor

from ntlbg.processors.processing_ntlbg import NTLBGProcessor


FPS = 2
SECONDS = 8


def video_bytes(seed: int = 0, seconds: int = SECONDS) -> bytes:
    """A small mp4 of a moving square, `FPS` pictures a second."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 84, 56, "yuv420p", 1
        for picture in moving_square(seconds * FPS, 56, 84, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def row(number: int = 0, **changes) -> dict:
    """A good row about `v<number % 2>.mp4`; changes of None take a key out."""
    made = {
        "id": f"q{number}",
        "video_id": f"v{number % 2}",
        "question": "what colour is the square?",
        "answer": ["red", "a pale blue"][number % 2],
        "answer_type": "open",
        "duration": float(SECONDS),
        "metadata": {},
        "video_path": f"v{number % 2}.mp4",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def write_rows(folder, rows: list) -> str:
    """`questions.jsonl` of these rows (text is a line as it is) beside v0.mp4 and v1.mp4; its path."""
    for number in range(2):
        (folder / f"v{number}.mp4").write_bytes(video_bytes(number))
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / "questions.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(folder / "questions.jsonl")


def tiny_processor(family: str = "qwen2_vl", **kwargs) -> NTLBGProcessor:
    """An NTLBG processor of `family` that takes 2 candidates a second, at most 16."""
    return NTLBGProcessor.from_base(tiny_base_processor(family), candidate_fps=2.0, max_candidates=16, **kwargs)
