"""What a bench leaves: figures as JSON, a picture of them, the page that shows both, and the commit they are of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import version
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


def write_between(page: Path, start: str, end: str, content: str) -> None:
    """
    Replace what stands between two markers of a page.

    Raises:
        ValueError: one of them does not stand there once.
    """
    text = page.read_text(encoding="utf-8")
    for marker in (start, end):
        if text.count(marker) != 1:
            raise ValueError(f"{page} should hold {marker!r} once, and does not; put it where the table goes")
    before, rest = text.split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}\n{content}{end}{after}", encoding="utf-8")


def current_commit() -> str:
    """The commit of this code, marked where the tree differs from it; of an installed package its version."""
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, capture_output=True, check=False
        )
    except FileNotFoundError:  # there is no git
        tracked = None
    if tracked is None or tracked.returncode:
        return f"of version {version('ntlbg')}"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=here, capture_output=True, text=True, check=True
    )
    return described.stdout.strip()


def commits_of(lines: Iterable[dict]) -> str:
    """The commits that results of a ledger were measured at, in the order in which they come."""
    return ", ".join(dict.fromkeys(line["commit"] for line in lines))


__all__ = ["commits_of", "current_commit", "write_bench", "write_between"]
