"""A real headless browser, or the reason why there is none."""

import importlib.util
import os
import shutil

import pytest


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NEEDED = ("gradio", "playwright")


def browser_path() -> str:
    """Where a Chromium is; skips the test where none is, or what drives it is missing, and fails it instead where
    NTLBG_NEEDS_BROWSER is set (`make test-app`)."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not missing and found is not None:
        return found
    reason = f"pip install {' '.join(missing)}" if missing else f"no browser is installed ({', '.join(NAMES)})"
    (pytest.fail if os.environ.get("NTLBG_NEEDS_BROWSER") else pytest.skip)(f"the page needs a browser: {reason}")
