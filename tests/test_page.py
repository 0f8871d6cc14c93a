"""The page without a browser: what goes wrong behind it ends in buttons that work."""

from types import SimpleNamespace

import pytest


gr = pytest.importorskip("gradio")
from ntlbg.app.page import build_page  # noqa: E402


class Broken:
    """A worker with a mistake in it."""

    def run(self, job, owner):
        yield from ()
        raise KeyError(job.selector)

    def cancel(self, owner):
        return False


def test_a_mistake_behind_the_page_reaches_its_log_and_leaves_ask_to_be_pressed_again():
    page = build_page(Broken(), ("ntlbg",), [], "")
    (answer,) = [event.fn for event in page.fns.values() if event.api_name == "ask"]
    run = answer("v.mp4", "who?", 2, "ntlbg", SimpleNamespace(session_hash="me"))
    *_, ask, stop = next(run)
    assert (ask.interactive, stop.interactive) == (False, True)
    status, _, _, ask, stop = next(run)
    assert "Something went wrong" in status
    assert (ask.interactive, stop.interactive) == (True, False)
    with pytest.raises(KeyError, match="ntlbg"):
        next(run)
