"""Jobs on worker processes: one that crashes or hangs is lost alone, memory has a bound, nothing outlives the run."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from mmap import mmap
from pathlib import Path

import pool_jobs
import pytest

from ntlbg.data.worker_pool import WorkerError, run_jobs


def still_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, what: str) -> None:
    """Waits; the limit only ends a test that has failed."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(what)


@pytest.mark.parametrize("in_order", [True, False])
def test_every_item_has_its_outcome(in_order):
    outcomes = list(run_jobs(pool_jobs.row, iter(range(2, 9)), workers=2, in_order=in_order))
    if not in_order:
        outcomes.sort(key=lambda outcome: outcome.number)
    assert [outcome.item for outcome in outcomes] == list(range(2, 9))
    assert [outcome.number for outcome in outcomes] == list(range(7))
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.value["half"].shape == (outcome.item // 2, 1000)
        assert (outcome.value["half"] == outcome.item).all()
        assert outcome.value["small"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("in_order", [True, False])
def test_a_job_that_goes_wrong_costs_itself_only(in_order, capfd):
    items = [4, "crash", "hang", 2, "leave", "mistake", "refuse", 6]
    outcomes = run_jobs(pool_jobs.row, items, workers=2, in_order=in_order, timeout=2, expected=(ValueError,))
    outcomes = sorted(outcomes, key=lambda outcome: outcome.number)
    assert [outcome.item for outcome in outcomes] == items
    errors = {outcome.item: outcome.error for outcome in outcomes}
    assert errors == {
        4: None,
        "crash": "Its worker process died (signal SIGSEGV).",
        "hang": "It took longer than 2 s and was stopped; allow more (timeout).",
        2: None,
        "leave": "Its worker process died (exit code 7).",
        "mistake": "Its worker process died (exit code 1).",
        "refuse": "This item is refused.",
        6: None,
    }
    assert "a mistake of ours" in capfd.readouterr().err


@pytest.mark.parametrize("in_order", [True, False])
def test_memory_in_flight_stays_within_its_bound(in_order, tmp_path):
    items = [(str(tmp_path), number, 1000) for number in range(16)]
    jobs = run_jobs(pool_jobs.told, items, workers=2, in_order=in_order, prefetch=8, max_bytes=3000)
    for taken, _ in enumerate(jobs, start=1):
        time.sleep(0.05)  # time to run ahead; what is asserted holds at any time
        # one that was taken is still counted until the next one is asked for
        assert len(list(tmp_path.iterdir())) <= taken - 1 + 3
    assert taken == 16


def test_in_order_the_next_one_never_waits_for_memory_that_later_ones_hold():
    sizes = [10, 1, 10, 1, 1, 1, 10, 3, 7, 10, 1, 1]
    outcomes = run_jobs(pool_jobs.row, sizes, workers=3, max_bytes=10_000)
    assert [outcome.item for outcome in outcomes if outcome.error is None] == sizes


def test_more_memory_than_the_bound_is_the_loss_of_that_job_only(capfd):
    errors = [outcome.error for outcome in run_jobs(pool_jobs.row, [2, 50, 3], workers=1, max_bytes=10_000)]
    assert errors == [None, "Its worker process died (exit code 1).", None]
    assert "50000 bytes are more than the bound" in capfd.readouterr().err


def _mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:ntlbg")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_arrays_are_handed_over_without_a_copy_and_their_memory_is_given_back():
    jobs = run_jobs(pool_jobs.row, [40] * 6, workers=1)
    kept = next(jobs).value["half"]
    owner = kept
    while not isinstance(owner, mmap):
        owner = owner.obj if isinstance(owner, memoryview) else owner.base
    kept[0, 0] = 3  # it is the consumer's own
    jobs.close()
    gc.collect()
    assert _mapped() == 1
    assert (kept[1:] == 40).all()
    del kept, owner
    gc.collect()
    assert _mapped() == 0


def test_leaving_early_ends_the_workers():
    for outcome in run_jobs(pool_jobs.row, ["hang", 2, 2, "hang"], workers=2, in_order=False):
        assert outcome.item == 2
        break
    del outcome
    gc.collect()
    assert multiprocessing.active_children() == []


def test_an_error_of_the_items_reaches_the_consumer_and_ends_the_workers():
    def items():
        yield 2
        raise RuntimeError("the list broke off")

    with pytest.raises(RuntimeError, match="the list broke off"):
        list(run_jobs(pool_jobs.row, items(), workers=1))
    assert multiprocessing.active_children() == []


def _start_hanging_run(tmp_path: Path) -> tuple[subprocess.Popen, list[int]]:
    """A process with two workers that hang, and the workers' numbers."""
    code = (
        # what a shell starts in the background ignores Ctrl-C, and so would this
        "import signal, sys, pool_jobs\nfrom ntlbg.data.worker_pool import run_jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "list(run_jobs(pool_jobs.hang_and_tell, [sys.argv[1]] * 5, workers=2))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    until(lambda: len(list(tmp_path.iterdir())) == 2, "the workers did not start")
    return process, [int(path.name) for path in tmp_path.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_the_run_and_its_workers_without_a_word_from_them(tmp_path):
    process, workers = _start_hanging_run(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("KeyboardInterrupt") == said.count("Traceback") == 1, said
    assert not any(still_there(worker) for worker in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    process, workers = _start_hanging_run(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not any(still_there(worker) for worker in workers), "a worker outlived its parent")


def test_workers_that_cannot_start_end_the_run_with_the_reason(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import pool_jobs\nfrom ntlbg.data.worker_pool import run_jobs\nlist(run_jobs(pool_jobs.row, [1], workers=1))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "WorkerError: A worker process ended while it started; in a script" in result.stderr


def test_a_worker_may_have_no_workers():
    (outcome,) = run_jobs(pool_jobs.nested, [1], workers=1, expected=(WorkerError,))
    assert "num_workers=0" in outcome.error


@pytest.mark.parametrize("name", ["workers", "prefetch", "max_bytes", "timeout"])
def test_numbers_out_of_range_are_refused_before_anything_starts(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        run_jobs(pool_jobs.row, [1], **{"workers": 1, name: 0})
