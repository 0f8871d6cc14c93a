"""What a bench of the procedural world leaves: figures as JSON, a picture of them, and the page that shows both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def write_bench(out: Path, result: dict, draw: Callable[[Path], None], page: str) -> None:
    """
    Write `out`.json, .png and .md, and print the page.

    Args:
        out: path without suffix; its folder is made.
        result: ready for JSON.
        draw: writes the picture to the path it is given.
        page: Markdown.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(out.with_suffix(".png"))
    out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)
