"""The card of a folder of prepared rows: what they are, how many, what was left out, how to load them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

from ntlbg.data.converters import BENCHMARKS


if TYPE_CHECKING:
    from ntlbg.data.prepare import Prepared


def data_card(prepared: Sequence[Prepared]) -> str:
    """README.md with the Hub's front matter; every number is one that `prepare` counted."""
    benchmark = prepared[0].benchmark
    configs = []
    for config in dict.fromkeys(one.config for one in prepared):
        files = [{"split": one.split, "path": one.file} for one in prepared if one.config == config]
        configs.append({"config_name": config, "data_files": files})
    front = {
        "license": "other",
        "license_name": "that-of-the-annotations",
        "task_categories": ["video-text-to-text"],
        "tags": ["ntlbg", "video", benchmark],
        "configs": configs,
    }
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", f"# {benchmark}, as rows", ""]
    lines += [
        f"Annotations of {BENCHMARKS[benchmark]}, converted row by row by `ntlbg data prepare`. They belong to their "
        "authors, whose licence holds. There are no videos and no code here: `video_path` is relative to the folder "
        "of the videos, which their authors distribute.",
        "",
        "| configuration | split | rows | videos | left out | spans cut to their video |",
        "|---|---|---|---|---|---|",
    ]
    for one in prepared:
        left_out = sum(one.dropped.values())
        lines.append(f"| {one.config} | {one.split} | {one.rows} | {one.videos} | {left_out} | {one.cut} |")
    for one in prepared:
        if one.dropped:
            lines += ["", f"Left out of {one.config}/{one.split}:", ""]
            lines += [f"- {count}: {reason}" for reason, count in sorted(one.dropped.items())]
    if any(one.with_subtitles is not None for one in prepared):
        told = ", ".join(
            f"{one.with_subtitles} of {one.rows} ({one.split})" for one in prepared if one.with_subtitles is not None
        )
        lines += [
            "",
            f"The configuration `subtitles` is another task than `default`: {told} of its rows hold what is said and "
            "when, to be told at the frames that were chosen. Results with it are to be named apart.",
        ]
    lines += [
        "",
        "```python",
        "from ntlbg.data.qa_dataset import load_qa",
        "",
        f'rows = load_qa("this/repository", split="{prepared[0].split}", video_root="the folder of the videos")',
        "```",
        "",
    ]
    return "\n".join(lines)


__all__ = ["data_card"]
