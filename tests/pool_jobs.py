"""What the worker processes of the tests do; imported by them, so nothing heavy here."""

import io
import os
import signal
import time
from pathlib import Path

import numpy as np


def row(item, allocate):
    """Strings are what may go wrong; a number n gives an array of n kilobytes, half of it handed back."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif item == "leave":
        os._exit(7)
    elif item == "hang":
        time.sleep(1000)
    elif item == "mistake":
        raise KeyError("a mistake of ours")
    elif item == "refuse":
        raise ValueError("This item is refused.")
    array = allocate((item, 1000))
    array[:] = item
    return {"half": array[: item // 2], "small": np.arange(3), "process": os.getpid()}


def told(item, allocate):
    """Writes a file when it has its memory; `item` is (folder, number, bytes)."""
    folder, number, size = item
    array = allocate((size,))
    (Path(folder) / str(number)).touch()
    return array


def hang_and_tell(folder, allocate):
    """Leaves its process number behind and does not end."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(1000)


def nested(item, allocate):
    """A job that wants workers of its own."""
    from ntlbg.data.worker_pool import run_jobs

    return list(run_jobs(row, [1], workers=1))


def fail(number, allocate, *, bases, seed):
    """Stands for a look at a file that ends badly: 0 kills its process, 1 hangs."""
    return row(["crash", "hang"][number], allocate)


class EndlessFile(io.BytesIO):
    """A file whose first byte never comes."""

    def read(self, size=-1):
        time.sleep(1000)
