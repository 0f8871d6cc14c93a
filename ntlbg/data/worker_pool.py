"""Jobs on worker processes of which any may crash or hang: that job is lost, never the run; memory has a bound.

concurrent.futures and torch's DataLoader end everything when one worker dies, and neither can stop one that hangs. So
the workers here are spawned one by one, each with a channel of its own (no lock that a dying worker could keep), and
one thread looks after all of them: it hands out jobs, lets a job have its memory when there is room, and replaces a
worker that died or took too long.

Arrays come back without being copied: a job asks for memory when it knows how much it needs, gets a nameless file that
both processes map, and what it returns may lie in there (pickle protocol 5, out-of-band buffers). Nameless, so that
nothing is left behind whoever dies; on Linux in memory, whatever the size of /dev/shm.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, current_process, get_context, parent_process, reduction, resource_tracker
from typing import Any

import numpy as np


Job = Callable[[Any, Callable[[tuple[int, ...]], np.ndarray]], Any]


class WorkerError(RuntimeError):
    """Worker processes cannot be started at all."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """
    What became of one job.

    Args:
        number: position of the item in the input.
        item: what the job was given.
        value: what the job returned; None if it failed.
        error: one sentence, or None if all went well.
    """

    number: int
    item: Any
    value: Any = None
    error: str | None = None


def run_jobs(
    job: Job,
    items: Iterable[Any],
    *,
    workers: int,
    in_order: bool = True,
    prefetch: int = 2,
    max_bytes: int = 2**31,
    timeout: float = 600.0,
    expected: tuple[type[Exception], ...] = (),
) -> Iterator[Outcome]:
    """
    Run `job(item, allocate)` for every item; closing the iterator (or leaving it) ends the workers at once.

    Args:
        job: picklable. `allocate(shape)` gives a uint8 array, once per job, and waits until there is room for it;
            arrays of the returned value that lie in it are handed over without a copy.
        items: picklable, read as they are needed, by another thread.
        workers: processes, started when there is work for them.
        in_order: outcomes in the order of the items, else as they come.
        prefetch: jobs begun ahead of the consumer, per worker.
        max_bytes: bound on the memory of all jobs that are running or whose outcome waits for the consumer; what the
            consumer holds already comes on top.
        timeout: seconds a job may run, waiting for memory not counted.
        expected: errors of a job that are an outcome. Any other ends the worker: its traceback goes to the standard
            error, and that job is lost.

    Raises:
        WorkerError: no worker can be started.
        ValueError: a number is out of range.
    """
    if current_process().daemon:
        raise WorkerError(
            "This process is a worker itself and may start none; call this in the main process (in a DataLoader: "
            "num_workers=0)."
        )
    for name, value in (("workers", workers), ("prefetch", prefetch), ("max_bytes", max_bytes), ("timeout", timeout)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")
    return _outcomes(_Pool(job, items, workers, in_order, workers * prefetch, max_bytes, timeout, expected))


def _outcomes(pool: _Pool) -> Iterator[Outcome]:
    pool.start()
    try:
        # No variable holds the outcome: it would keep the pixels alive while the next one is awaited.
        while pool.wait():
            yield pool.take()
    finally:
        pool.stop()


# -- the worker ------------------------------------------------------------------------------------------------------


class _Memory:
    """The memory of one job, as its worker sees it."""

    def __init__(self, channel: connection.Connection, max_bytes: int):
        self._channel, self._max_bytes = channel, max_bytes
        self._map: mmap.mmap | None = None

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        if self._map is not None:
            raise RuntimeError("a job asks for memory once")
        size = int(np.prod(shape))
        if size > self._max_bytes:
            raise MemoryError(f"{size} bytes are more than the bound of {self._max_bytes}")
        self._channel.send(size)
        descriptor = reduction.recv_handle(self._channel)
        try:
            self._map = mmap.mmap(descriptor, max(size, 1))
        finally:
            os.close(descriptor)
        return np.frombuffer(self._map, np.uint8, size).reshape(shape)

    def pack(self, value: Any) -> tuple[bytes, list[tuple[int, int]]]:
        """`value` without the arrays that lie in this memory, and where these are: (offset, size)."""
        places: list[tuple[int, int]] = []
        start = None if self._map is None else _address(self._map)

        def inline(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if start is None or not 0 <= (offset := _address(raw) - start) <= len(self._map) - raw.nbytes:
                return True
            places.append((offset, raw.nbytes))
            return False

        return pickle.dumps(value, protocol=5, buffer_callback=inline), places


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]


def _serve(channel: connection.Connection, job: Job, max_bytes: int, expected: tuple[type[Exception], ...]) -> None:
    """What a worker does until its channel ends."""

    def leave_with_parent() -> None:
        # A parent that is killed cannot end its workers, and one that hangs in a decoder would never notice.
        parent_process().join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        channel.send(None)
        while True:
            _serve_one(channel, channel.recv(), job, max_bytes, expected)


def _serve_one(channel, item, job: Job, max_bytes: int, expected: tuple[type[Exception], ...]) -> None:
    # A function of its own, so that nothing of the item outlives it.
    memory = _Memory(channel, max_bytes)
    try:
        packed, error = memory.pack(job(item, memory.allocate)), None
    except expected as caught:
        packed, error = memory.pack(None), str(caught)
    channel.send((*packed, error))


# -- the pool --------------------------------------------------------------------------------------------------------


class _Worker:
    """One process and the job it has."""

    def __init__(self, context, job: Job, max_bytes: int, expected: tuple[type[Exception], ...]):
        self.channel, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, job, max_bytes, expected), daemon=True)
        self.process.start()
        other.close()
        self.ready = False
        self.rest()

    def rest(self) -> None:
        self.number: int | None = None
        self.item: Any = None
        self.seconds_left = 0.0
        self.deadline: float | None = None
        self.asked: int | None = None
        self.asked_at = 0.0
        self.memory: mmap.mmap | None = None
        self.granted = 0

    def run(self, number: int, item: Any, timeout: float) -> None:
        self.number, self.item, self.seconds_left = number, item, timeout
        if self.ready:
            self.resume()
        # A worker that died while it rested shows when the channel is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.channel.send(item)

    def resume(self) -> None:
        self.deadline = time.monotonic() + self.seconds_left

    def ask(self, size: int) -> None:
        self.asked, self.asked_at = size, time.monotonic()
        self.seconds_left = self.deadline - self.asked_at
        self.deadline = None

    def grant(self) -> None:
        descriptor = _nameless_file(max(self.asked, 1))
        try:
            self.memory, self.granted, self.asked = mmap.mmap(descriptor, max(self.asked, 1)), self.asked, None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                reduction.send_handle(self.channel, descriptor, self.process.pid)
        finally:
            os.close(descriptor)
        self.resume()

    def end(self, dying: bool = False) -> int:
        """Kills the process and gives its exit code: it holds nothing that would have to be put in order."""
        self.channel.close()
        if dying:
            # its channel ends a little before it does, and the exit code shall be its own
            self.process.join(5)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


def _nameless_file(size: int) -> int:
    if sys.platform == "linux":
        descriptor = os.memfd_create("ntlbg")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class _Pool:
    def __init__(self, job, items, workers, in_order, ahead, max_bytes, timeout, expected):
        self._context = get_context("spawn")
        self._job, self._expected, self._timeout = job, expected, timeout
        self._items, self._most, self._in_order, self._ahead = enumerate(items), workers, in_order, ahead
        self._max_bytes = max_bytes
        self._workers: list[_Worker] = []
        self._begun, self._no_more_items = 0, False
        # Shared with the consumer's thread, under `_changed`.
        self._changed = threading.Condition()
        self._done: dict[int, tuple[Outcome, int]] = {}
        self._taken = self._held = self._lent = 0
        self._stopping = self._ended = False
        self._failure: BaseException | None = None
        self._alarm, self._bell = self._context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    # -- the consumer's side

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> bool:
        """Waits for the next outcome; False when there is none to come."""
        with self._changed:
            self._held -= self._lent
            self._lent = 0
            if not self._ended:
                self._bell.send(None)
            while not self._next_is_done():
                if self._ended:
                    if self._failure is not None:
                        raise self._failure
                    return False
                self._changed.wait()
        return True

    def take(self) -> Outcome:
        with self._changed:
            outcome, self._lent = self._done.pop(self._taken if self._in_order else next(iter(self._done)))
            self._taken += 1
            return outcome

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._bell.send(None)
        self._thread.join()
        self._alarm.close()
        self._bell.close()

    def _next_is_done(self) -> bool:
        return self._taken in self._done if self._in_order else bool(self._done)

    # -- the thread that looks after the workers

    def _supervise(self) -> None:
        try:
            # Spawned processes inherit this thread's mask: whether Ctrl-C ends the run is for the parent to decide.
            # The tracker is started first, since its start lifts the mask.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            while not self._stopping:
                self._begin()
                self._grant()
                if self._no_more_items and all(worker.number is None for worker in self._workers):
                    break
                self._listen()
        except BaseException as error:  # raised again where the consumer waits
            self._failure = error
        finally:
            for worker in self._workers:
                worker.end()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _begin(self) -> None:
        """Hands jobs to workers that have none, and starts workers while there are jobs for them."""
        while not self._no_more_items and self._begun - self._taken < self._ahead:
            worker = next((worker for worker in self._workers if worker.number is None), None)
            if worker is None and len(self._workers) == self._most:
                return
            try:
                number, item = next(self._items)
            except StopIteration:
                self._no_more_items = True
                return
            if worker is None:
                worker = _Worker(self._context, self._job, self._max_bytes, self._expected)
                self._workers.append(worker)
            worker.run(number, item, self._timeout)
            self._begun += 1

    def _grant(self) -> None:
        """Lets jobs have the memory they ask for while there is room, in the order in which outcomes are given.

        In order, a job waits for all before it: else the next one to be given could wait for room that is taken by
        those after it, forever.
        """
        asking = [worker for worker in self._workers if worker.number is not None and worker.memory is None]
        if self._in_order:
            asking.sort(key=lambda worker: worker.number)
        else:
            asking = sorted((worker for worker in asking if worker.asked is not None), key=lambda w: w.asked_at)
        for worker in asking:
            with self._changed:
                if worker.asked is None or self._held + worker.asked > self._max_bytes:
                    return
                self._held += worker.asked
            worker.grant()

    def _listen(self) -> None:
        """Waits for news from the workers, the consumer or the clock."""
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        seconds = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        channels = {worker.channel: worker for worker in self._workers}
        for channel in connection.wait([*channels, self._alarm], seconds):
            if channel is self._alarm:
                channel.recv()
            else:
                self._hear(channels[channel])
        for worker in list(self._workers):
            if worker.deadline is not None and time.monotonic() >= worker.deadline:
                self._lose(worker, f"It took longer than {self._timeout:g} s and was stopped; allow more (timeout).")

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.channel.recv()
        except (EOFError, ConnectionResetError):
            self._lose(worker, None)
            return
        if message is None:
            worker.ready = True
            worker.resume()
        elif isinstance(message, int):
            worker.ask(message)
        else:
            packed, places, error = message
            view = None if worker.memory is None else memoryview(worker.memory)
            value = pickle.loads(packed, buffers=[view[start : start + size] for start, size in places])
            outcome = Outcome(worker.number, worker.item, value, error)
            self._finish(worker, outcome, worker.granted if places else 0)
            worker.rest()

    def _lose(self, worker: _Worker, reason: str | None) -> None:
        """Ends a worker; its job, if it has one, is lost."""
        self._workers.remove(worker)
        code = worker.end(dying=reason is None)
        if not worker.ready:
            raise WorkerError(
                "A worker process ended while it started; in a script, call this under `if __name__ == '__main__':`, "
                "and see what it wrote to the standard error."
            )
        if worker.number is None:
            return
        if reason is None:
            ended = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
            often = "; most often memory runs out: use fewer workers" if code == -signal.SIGKILL else ""
            reason = f"Its worker process died ({ended}){often}."
        self._finish(worker, Outcome(worker.number, worker.item, None, reason), 0)

    def _finish(self, worker: _Worker, outcome: Outcome, still_held: int) -> None:
        with self._changed:
            self._held += still_held - worker.granted
            self._done[outcome.number] = (outcome, still_held)
            self._changed.notify_all()


__all__ = ["Outcome", "WorkerError", "run_jobs"]
