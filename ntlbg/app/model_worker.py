"""The process that holds the model and answers one question at a time for the page.

A process of its own, because that is what can be ended: cancelling ends the work wherever it is, in the decoder or in
the model, and a file that crashes a decoder takes no page with it. The price is that the model is loaded again. The
page's own process imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ntlbg.cli_common import check_device, quiet_libraries, refusal
from ntlbg.cli_source import check_opens, check_video
from ntlbg.errors import InputError, first_sentence


if TYPE_CHECKING:
    from multiprocessing.connection import Connection


# How often a run that is under way tells that it is.
_BEAT = 0.25
# Videos whose candidates are kept; another question about one of them is answered without a look.
_VIDEOS = 2


class WorkerError(InputError):
    """The model's process cannot do what is asked; one sentence."""


class Cancelled(Exception):
    """A run was ended by whoever asked for it."""


@dataclass(frozen=True)
class ModelSettings:
    """What `load_answerer` needs, and how long a run may take in seconds."""

    model: str
    encoder: str | None = None
    device: str | None = None
    max_new_tokens: int = 128
    trust_remote_code: bool = False
    run_seconds: float = 1800.0


@dataclass(frozen=True)
class Job:
    """One question about one video file; `selector` is one of `choosing.SELECTORS`."""

    video: str
    question: str
    k: int
    selector: str


@dataclass(frozen=True)
class Stage:
    """What is being done."""

    name: str


@dataclass(frozen=True)
class AnswerView:
    """HTML of one answer's three parts, see `answer_view`."""

    answer: str
    timeline: str
    sheet: str


@dataclass(frozen=True)
class _Loaded:
    selectors: tuple[str, ...]


@dataclass(frozen=True)
class _Refused:
    sentence: str


@dataclass(eq=False)
class _Run:
    """A place in the line; `at_work` while the process is its own."""

    owner: str
    at_work: bool = False
    cancelled: bool = False


class ModelWorker:
    """The page's side of it. Safe to use from several threads; runs wait in line.

    Args:
        settings: of the model, which is loaded at once and in the background.
    """

    def __init__(self, settings: ModelSettings):
        self.settings = settings
        self._line: deque[_Run] = deque()
        # Over the line and over whose the process is: a cancel must not end the work of the next one.
        self._lock = threading.Lock()
        self._start()

    def wait(self) -> tuple[str, ...]:
        """Until the model is loaded, before the first run; returns `choosing.SELECTORS`.

        Raises:
            WorkerError: it cannot be; the sentence is that of `ntlbg ask`.
        """
        while not self._loaded:
            message = self._receive(_Run("the page itself"))
        return message.selectors

    def run(self, job: Job, owner: str) -> Iterator[Stage | AnswerView]:
        """Stages as they come, repeated while they last, and the answer at the end. Closing the iterator cancels.

        Args:
            owner: whoever may `cancel` it.

        Raises:
            WorkerError: bad input, in the words of `ntlbg ask`; or the process ended, or took too long.
            Cancelled: by its owner.
        """
        run = _Run(owner)
        with self._lock:
            self._line.append(run)
        try:
            while before := self._before(run):
                yield Stage(f"waiting for {before} before you")
                time.sleep(_BEAT)
            if not self._process.is_alive():
                # It died while nobody asked anything; whoever asks now has nothing to do with it.
                self.close()
                self._start()
            stage = Stage("loading the model")
            while not self._loaded:
                if self._connection.poll(_BEAT):
                    self._receive(run)
                yield stage
            deadline = time.monotonic() + self.settings.run_seconds
            if run.cancelled:
                raise Cancelled
            with contextlib.suppress(BrokenPipeError):
                # `_receive` says why.
                self._connection.send(job)
            while True:
                if not self._connection.poll(_BEAT):
                    if time.monotonic() > deadline:
                        raise WorkerError(
                            f"the answer took longer than {self.settings.run_seconds:g} s and was given up; ask about "
                            "a shorter video or with fewer moments"
                        )
                    yield stage
                    continue
                message = self._receive(run)
                if isinstance(message, Stage):
                    yield (stage := message)
                    continue
                with self._lock:
                    if run.cancelled:
                        raise Cancelled
                    run.at_work = False
                if isinstance(message, _Refused):
                    raise WorkerError(message.sentence)
                yield message
                return
        finally:
            # Before the next in line has its turn.
            with self._lock:
                if run.at_work:
                    self.close()
                    self._start()
                self._line.remove(run)

    def cancel(self, owner: str) -> bool:
        """End the runs of `owner`; whether there were any."""
        with self._lock:
            runs = [run for run in self._line if run.owner == owner]
            for run in runs:
                run.cancelled = True
                if run.at_work:
                    # Not a polite request: a decoder that hangs would not hear it.
                    self._process.kill()
        return bool(runs)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _before(self, run: _Run) -> int:
        """How many stand before it in the line; with none, the process is its own from now on."""
        with self._lock:
            if run.cancelled:
                raise Cancelled
            before = self._line.index(run)
            run.at_work = before == 0
        return before

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.settings), name="ntlbg model", daemon=True)
        self._process.start()
        theirs.close()
        self._loaded = False

    def _receive(self, run: _Run) -> Stage | AnswerView | _Refused | _Loaded:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            if run.cancelled:
                raise Cancelled from error
            self._process.join()
            code = self._process.exitcode
            if not self._loaded:
                raise WorkerError(
                    f"the model's process ended by itself while it loaded {self.settings.model!r} (exit code {code}); "
                    "see what it printed; often memory ran out, and a smaller model fits"
                ) from error
            raise WorkerError(
                f"the model's process ended by itself (exit code {code}); the file may have crashed the decoder, or "
                "memory ran out: try again, or another video"
            ) from error
        if isinstance(message, _Loaded):
            self._loaded = True
        elif isinstance(message, _Refused) and not self._loaded:
            raise WorkerError(message.sentence)
        return message


def _serve(connection: Connection, settings: ModelSettings) -> None:
    """The process's own main function; ends when the page does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_libraries()
    import torch

    from ntlbg.app.answer_view import view_of
    from ntlbg.processors.video_source_ntlbg import VideoLimits
    from ntlbg.report.html_report import VideoFacts
    from ntlbg.selection.answering import load_answerer
    from ntlbg.selection.choosing import SELECTORS, check_selector

    limits = VideoLimits()
    try:
        check_device(settings.device)
        answerer = load_answerer(
            settings.model,
            encoder=settings.encoder,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            max_new_tokens=settings.max_new_tokens,
            limits=limits,
        )
    except (ValueError, OSError) as error:
        connection.send(_Refused(refusal(error)))
        return
    except (RuntimeError, ImportError, MemoryError) as error:
        # What torch says of a device or of memory, and a library that is missing or broken.
        told = first_sentence(error) or type(error).__name__
        connection.send(_Refused(f"the model {settings.model!r} cannot be loaded ({told}); see --device and --model"))
        return
    connection.send(_Loaded(SELECTORS))
    opened: dict[tuple, object] = {}
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(Stage("looking at the video"))
            check_opens(job.video, limits)
            known, start = _identity(job.video), time.perf_counter()
            seen = known in opened
            if not seen:
                check_video(job.video, limits)
                opened[known] = answerer.open(job.video)
                while len(opened) > _VIDEOS:
                    opened.pop(next(iter(opened)))
            looked = 0.0 if seen else time.perf_counter() - start
            connection.send(Stage("choosing the moments and answering"))
            chooser = copy.copy(answerer)
            chooser.selector = check_selector(job.selector)
            answer = replace(opened[known], answerer=chooser).ask(job.question, job.k)
            connection.send(view_of(answer, VideoFacts.of(opened[known].candidates), looked))
        except (torch.OutOfMemoryError, MemoryError):
            # What is kept of videos may be in the way of the next run.
            opened.clear()
            connection.send(_Refused("memory ran out; ask with fewer moments, or about a shorter video"))
        except (ValueError, OSError) as error:
            connection.send(_Refused(refusal(error)))


def _identity(video: str) -> tuple:
    """What tells a file from another one."""
    facts = os.stat(video)
    return video, facts.st_size, facts.st_mtime_ns
