"""The demo page in a real headless browser: what a person does there, and what they see."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from html import unescape
from pathlib import Path

import psutil
import pytest
from browser import browser_path

from ntlbg.app.samples import render_samples
from ntlbg.cli import main
from ntlbg.report.evidence import Evidence
from ntlbg.selection.answering import load_answerer
from ntlbg.tiny_checkpoint import TINY


ROOT = Path(__file__).parents[1]
SECONDS = 300_000  # milliseconds, as the browser counts; for machines that are busy


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """(process, address, folder of the samples) of `python app.py`."""
    browser_path()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "app.py", "--device", "cpu", "--max-new-tokens", "8", "--out", str(folder / "samples")],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process, log)
        yield process, address, folder / "samples"
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait_for(address: str, process: subprocess.Popen, log) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    log.seek(0)
    pytest.fail(f"the page did not come up: {log.read()[-2000:]}")


@pytest.fixture(scope="module")
def chromium():
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(app, chromium):
    """A fresh visit; whatever it asks of other hosts, and what its scripts complain of, fails the test."""
    page = chromium.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(SECONDS)
    outside, complaints = [], []
    page.on("request", lambda r: None if r.url.startswith((app[1], "data:", "blob:")) else outside.append(r.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(app[1])
    page.wait_for_selector("#ask")
    yield page
    page.close()
    assert outside == []
    assert complaints == []


def ask(page) -> None:
    page.locator("#ask").click()


def ready(page) -> None:
    """Waits until the player has its video."""
    page.wait_for_function("document.querySelector('#player video')?.readyState > 0")


def seconds_shown(page) -> float:
    return page.evaluate("document.querySelector('#player video').currentTime")


def expected_answer(app, question: str, k: int = 16, selector: str = "ntlbg"):
    answerer = load_answerer(str(TINY), device="cpu", max_new_tokens=8, selector=selector)
    return answerer.open(app[2] / "sample-1.mp4").ask(question, k)


def moments_of(page) -> set[float]:
    """The times that the timeline's marks lead to."""
    marks = page.locator("#timeline svg[data-axis] g[data-seconds]")
    return {float(mark.get_attribute("data-seconds")) for mark in marks.all()}


def test_a_sample_is_answered_and_a_click_on_a_moment_shows_it(app, page):
    sample = render_samples(app[2])[0]
    ready(page)
    assert page.input_value("#question textarea") == sample.questions[0]
    ask(page)
    page.wait_for_selector("#status .answer")
    answer = expected_answer(app, sample.questions[0])
    assert page.inner_text("#status .text") == answer.text != ""
    evidence = Evidence.of(answer.selection)
    expected = {round(float(second), 3) for second in evidence.seconds}
    assert moments_of(page) == expected
    figures = page.locator("#sheet figure")
    assert [round(float(figure.get_attribute("data-seconds")), 3) for figure in figures.all()] == sorted(expected)
    assert seconds_shown(page) == 0
    # with the mouse on the timeline, with the keyboard on the sheet
    marks = page.locator("#timeline svg[data-axis] g[data-seconds]")
    marks.last.click()
    wanted = float(marks.last.get_attribute("data-seconds"))
    page.wait_for_function(f"Math.abs(document.querySelector('#player video').currentTime - {wanted}) < .1")
    figures.nth(1).press("Enter")
    wanted = float(figures.nth(1).get_attribute("data-seconds"))
    page.wait_for_function(f"Math.abs(document.querySelector('#player video').currentTime - {wanted}) < .1")
    assert "chosen" in figures.nth(1).get_attribute("class")
    assert page.locator("#timeline svg .playhead").count() == 1


def test_another_rule_and_another_k_choose_other_moments(app, page):
    ready(page)
    page.locator("#moments input[type=number]").fill("5")
    page.locator("#selector input").click()
    page.get_by_role("option", name="uniform", exact=True).click()
    page.get_by_role("button", name=re.compile("^Video 1: ")).nth(1).click()
    question = render_samples(app[2])[0].questions[1]
    page.wait_for_function(f"document.querySelector('#question textarea').value == {question!r}")
    ask(page)
    page.wait_for_selector("#status .answer")
    assert page.locator("#sheet figure").count() == 5
    answer = expected_answer(app, question, 5, "uniform")
    assert moments_of(page) == {round(float(second), 3) for second in Evidence.of(answer.selection).seconds}
    assert "given" in page.inner_text("#timeline .key")
    assert "Chosen by the rule" in page.inner_text("#status .notes")
    page.get_by_role("button", name=re.compile("^Video 2: ")).first.click()
    # marks of another video would lead nowhere
    page.wait_for_selector("#timeline svg[data-axis]", state="detached")


def test_a_run_can_be_cancelled_and_the_next_one_is_answered(app, page):
    ready(page)
    (model,) = [child for child in psutil.Process(app[0].pid).children() if "spawn_main" in " ".join(child.cmdline())]
    model.suspend()
    ask(page)
    page.wait_for_selector("#status .busy")
    assert not page.locator("#ask").is_enabled()
    page.locator("#cancel:enabled").click()
    page.get_by_text("Cancelled.").wait_for()
    model.wait(60)
    page.locator("#ask:enabled").click()
    page.wait_for_selector("#status .answer")
    assert page.locator("#sheet figure").count() == 16


def test_what_cannot_be_done_is_said_in_the_words_of_the_command(app, page, tmp_path, capsys):
    ready(page)
    page.fill("#question textarea", " ")
    ask(page)
    page.get_by_text("The question is empty; ask something.").wait_for()
    page.fill("#question textarea", "who?")
    page.locator("#player button[aria-label=Clear]").click()
    page.wait_for_selector("#player video", state="detached")
    ask(page)
    page.get_by_text("There is no video").wait_for()
    bad = tmp_path / "notes.mp4"
    bad.write_text("this is no video\n" * 100)
    page.locator("#player input[type=file]").set_input_files(bad)
    page.wait_for_selector("#player video", state="attached")
    page.locator("#ask:enabled").click()
    page.wait_for_function("document.querySelector('#status .trouble')?.innerText.includes('notes.mp4')")
    assert main(["ask", str(bad), "who?", "--model", str(TINY)]) == 2
    sentence = capsys.readouterr().err.removeprefix("ntlbg: error: ").strip()
    shown = page.inner_text("#status .trouble")
    assert shown[1:] == unescape(sentence)[1:] + "."


def test_a_model_that_cannot_be_loaded_ends_with_one_sentence(app):
    ended = subprocess.run(
        [sys.executable, "app.py", "--model", "/no/such/model"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "ntlbg: error: the model '/no/such/model' cannot be loaded" in ended.stderr
