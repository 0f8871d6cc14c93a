"""Prompts with subtitles at the times that are chosen, where the official tasks take those at 32 even times.

A part {"type": "subtitles"} names the file: a model that does not know such parts refuses the task.
"""

from __future__ import annotations

from pathlib import Path

from lmms_eval.tasks.longvideobench import utils as longvideobench
from lmms_eval.tasks.videomme import utils as videomme


def videomme_messages(doc: dict, lmms_eval_specific_kwargs: dict | None = None) -> list[dict]:
    """Video-MME's own prompt, which speaks of subtitles in any case, and the video's .srt if it has one."""
    folder = Path(videomme.base_cache_dir, videomme.cache_name, "subtitle")
    text = videomme.videomme_doc_to_text(doc, lmms_eval_specific_kwargs or {})
    return _messages(videomme.videomme_doc_to_visual(doc)[0], {"url": str(folder / f"{doc['videoID']}.srt")}, text)


def longvideobench_messages(doc: dict, lmms_eval_specific_kwargs: dict | None = None) -> list[dict]:
    """LongVideoBench's own prompt, and the video's subtitles, whose times begin before the video does."""
    folder, _ = longvideobench._resolve_dataset_dir("longvideobench_val_i.yaml", "subtitle_subdir", "subtitles")
    subtitles = {
        "url": str(Path(folder, doc["subtitle_path"])),
        "offset": float(doc["starting_timestamp_for_subtitles"]),
        "duration": float(doc["duration"]),
    }
    kwargs = {"pre_prompt": "", "post_prompt": "", **(lmms_eval_specific_kwargs or {})}
    text = longvideobench.longvideobench_doc_to_text(doc, kwargs | {"insert_interleave_subtitles": False})
    return _messages(longvideobench.longvideobench_doc_to_visual_v(doc)[0], subtitles, text)


def _messages(video: str, subtitles: dict, text: str) -> list[dict]:
    parts = [{"type": "video", "url": video}, {"type": "text", "text": text}]
    if Path(subtitles["url"]).is_file():
        parts.append({"type": "subtitles", **subtitles})
    return [{"role": "user", "content": parts}]
