"""The page's model lives in a process that can be ended: nothing it does can hang or crash the page."""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
from dataclasses import replace

import pytest
import torch
from tiny_encoders import scenes, write_video

from ntlbg.app.answer_view import view_of
from ntlbg.app.model_worker import (
    AnswerView,
    Cancelled,
    Job,
    ModelSettings,
    ModelWorker,
    Stage,
    WorkerError,
    _Refused,
    _serve,
)
from ntlbg.cli import main
from ntlbg.report.html_report import VideoFacts
from ntlbg.selection.answering import load_answerer
from ntlbg.tiny_checkpoint import TINY


QUESTION = "How many times was a <b>red</b> circle seen?"
SETTINGS = ModelSettings(str(TINY), device="cpu", max_new_tokens=4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes()))


@pytest.fixture(scope="module")
def worker():
    worker = ModelWorker(SETTINGS)
    worker.wait()
    yield worker
    worker.close()


def last(run) -> AnswerView:
    """What a run ends with."""
    *stages, view = run
    assert all(isinstance(stage, Stage) for stage in stages)
    return view


def test_the_answer_and_its_moments_are_those_of_the_answerer_here(worker, clip):
    for selector in ("ntlbg", "uniform"):
        view = last(worker.run(Job(clip, QUESTION, 3, selector), "me"))
        answerer = load_answerer(str(TINY), device="cpu", max_new_tokens=4, selector=selector)
        opened = answerer.open(clip)
        expected = view_of(opened.ask(QUESTION, 3), VideoFacts.of(opened.candidates), 1.0)
        assert (view.timeline, view.sheet) == (expected.timeline, expected.sheet)
        text = re.compile('<p class="text">(.*?)</p>')
        assert text.search(view.answer)[1] == text.search(expected.answer)[1] != ""
        assert view.sheet.count("<figure") == 3
        assert "&lt;b&gt;red" in view.answer + view.timeline
        assert "<b>red" not in view.answer + view.timeline + view.sheet


def test_a_video_is_looked_at_once_and_again_after_it_changed(worker, tmp_path):
    path = write_video(tmp_path / "v.mp4", scenes())
    job = Job(str(path), QUESTION, 2, "ntlbg")
    assert "looked for" in last(worker.run(job, "me")).answer
    assert "seen before" in last(worker.run(job, "me")).answer
    write_video(path, scenes((10, 12), flash=None))
    assert "looked for" in last(worker.run(job, "me")).answer


def test_bad_input_is_refused_in_the_words_of_the_command_and_the_process_stays(worker, clip, tmp_path, capsys):
    pid = worker._process.pid
    bad = tmp_path / "notes.mp4"
    bad.write_text("this is no video\n" * 100)
    for job, arguments in (
        (Job(str(bad), QUESTION, 2, "ntlbg"), ["ask", str(bad), QUESTION, "--model", str(TINY)]),
        (Job("/no/such.mp4", QUESTION, 2, "ntlbg"), ["ask", "/no/such.mp4", QUESTION, "--model", str(TINY)]),
        (Job(clip, QUESTION, 2, "best"), ["ask", clip, QUESTION, "--model", str(TINY), "--selector", "best"]),
    ):
        with pytest.raises(WorkerError) as refused:
            last(worker.run(job, "me"))
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"ntlbg: error: {refused.value}\n"
    assert worker._process.pid == pid
    last(worker.run(Job(clip, QUESTION, 2, "ntlbg"), "me"))


def test_only_its_owner_cancels_a_run_and_the_next_one_is_answered(worker, clip):
    job = Job(clip, QUESTION, 2, "ntlbg")
    pid = worker._process.pid
    # A process that is stopped stands for one that hangs: it hears nothing.
    os.kill(pid, signal.SIGSTOP)
    run = worker.run(job, "me")
    next(run)
    assert not worker.cancel("somebody else")
    next(run)
    assert worker.cancel("me")
    with pytest.raises(Cancelled):
        last(run)
    assert not worker.cancel("me")
    assert worker._process.pid != pid
    last(worker.run(job, "me"))


def test_runs_wait_in_line_and_may_leave_it(worker, clip):
    job = Job(clip, QUESTION, 2, "ntlbg")
    first, second, third = (worker.run(job, owner) for owner in ("me", "you", "them"))
    next(first)
    assert next(second) == Stage("waiting for 1 before you")
    assert next(third) == Stage("waiting for 2 before you")
    pid = worker._process.pid
    assert worker.cancel("you")
    with pytest.raises(Cancelled):
        last(second)
    assert next(third) == Stage("waiting for 1 before you")
    last(first)
    last(third)
    assert worker._process.pid == pid


def test_a_cancel_after_the_answer_leaves_the_process_to_the_next_one(worker, clip):
    job = Job(clip, QUESTION, 2, "ntlbg")
    run, pid = worker.run(job, "me"), worker._process.pid
    while not isinstance(next(run), AnswerView):
        pass
    # The answer is out, and whoever asked still stands in the line.
    assert worker.cancel("me")
    run.close()
    last(worker.run(job, "you"))
    assert worker._process.pid == pid


def test_a_run_that_nobody_waits_for_ends_with_its_iterator(worker, clip):
    pid = worker._process.pid
    os.kill(pid, signal.SIGSTOP)
    run = worker.run(Job(clip, QUESTION, 2, "ntlbg"), "me")
    next(run)
    run.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    last(worker.run(Job(clip, QUESTION, 2, "ntlbg"), "me"))


def test_a_process_that_dies_is_one_sentence_and_is_replaced(worker, clip):
    job = Job(clip, QUESTION, 2, "ntlbg")
    run = worker.run(job, "me")
    next(run)
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"ended by itself \(exit code -9\)"):
        last(run)
    # while nobody asks: the next one does not notice
    worker._process.kill()
    worker._process.join()
    last(worker.run(job, "me"))


def test_a_run_that_takes_too_long_is_given_up(worker, clip, monkeypatch):
    last(worker.run(Job(clip, QUESTION, 2, "ntlbg"), "me"))
    monkeypatch.setattr(worker, "settings", replace(SETTINGS, run_seconds=0.0))
    os.kill(worker._process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="longer than 0 s"):
        last(worker.run(Job(clip, QUESTION, 2, "ntlbg"), "me"))


def test_a_model_that_cannot_be_loaded_is_told_as_the_command_tells_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    worker = ModelWorker(ModelSettings("/no/such/model"))
    with pytest.raises(WorkerError, match="'/no/such/model' cannot be loaded"):
        worker.wait()
    worker.close()


def test_a_device_that_is_not_there_is_told_as_the_command_tells_it(capsys):
    worker = ModelWorker(replace(SETTINGS, device="cuda:99"))
    with pytest.raises(WorkerError) as refused:
        worker.wait()
    worker.close()
    assert main(["ask", "no.mp4", QUESTION, "--model", str(TINY), "--device", "cuda:99"]) == 2
    assert capsys.readouterr().err == f"ntlbg: error: {refused.value}\n"


def test_a_process_that_dies_while_it_loads_is_told_so():
    worker = ModelWorker(SETTINGS)
    worker._process.kill()
    with pytest.raises(WorkerError, match=r"while it loaded .* \(exit code -9\)"):
        worker.wait()
    worker.close()


def sent(monkeypatch, load, *jobs) -> list:
    """What the process answers when `load` stands for `load_answerer`: no machine of the tests runs out of memory."""
    monkeypatch.setattr("ntlbg.selection.answering.load_answerer", load)
    ours, theirs = multiprocessing.Pipe()
    for job in jobs:
        ours.send(job)
    with socket.socket(fileno=os.dup(ours.fileno())) as half:
        half.shutdown(socket.SHUT_WR)
    handler = signal.getsignal(signal.SIGINT)
    try:
        _serve(theirs, SETTINGS)
    finally:
        signal.signal(signal.SIGINT, handler)
    theirs.close()
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(ours.recv())
    return messages


@pytest.mark.parametrize(
    "error", [RuntimeError("No kernel. More."), ImportError("No kernel"), MemoryError("No kernel")]
)
def test_a_model_that_the_libraries_cannot_load_is_one_sentence(monkeypatch, error):
    def load(*_, **__):
        raise error

    (message,) = sent(monkeypatch, load)
    assert message.sentence.startswith(f"the model '{TINY}' cannot be loaded (No kernel); ")


def test_memory_that_runs_out_is_one_sentence_and_the_process_stays(monkeypatch, clip):
    class Full:
        def open(self, video):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. " * 9)

    job = Job(clip, QUESTION, 2, "ntlbg")
    messages = sent(monkeypatch, lambda *_, **__: Full(), job, job)
    refused = [message.sentence for message in messages if isinstance(message, _Refused)]
    assert refused == ["memory ran out; ask with fewer moments, or about a shorter video"] * 2
