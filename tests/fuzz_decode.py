"""Mutated videos and pictures through probe and select: frames or one sentence, in seconds, in bounded memory.

    python tests/fuzz_decode.py --files 2000 --out docs/benchmarks/decode_fuzz

Every file follows from the seed and its number, so each can be made again (--only). A worker process that dies, hangs
or ends in any error but a `VideoError` is a failure, and the run goes on with another worker.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import parent_process
from pathlib import Path

import av
import numpy as np
import torch
from odd_catalog import ODD, textured_frames
from odd_videos import write_audio
from PIL import Image

from ntlbg.data.worker_pool import Job, run_jobs
from ntlbg.probe import probe
from ntlbg.processors.video_images_ntlbg import ImageFiles
from ntlbg.processors.video_source_ntlbg import VideoClip, VideoError
from ntlbg.selection.api import select_frames


av.logging.set_level(None)

PICTURES = ("photo.jpg", "photo.png", "photo.webp", "photo.bmp", "photo.gif")
SECONDS = 10.0  # of processor time that one file may take
WAIT = 120.0  # by the clock: the machine may be busy, and what sleeps takes no processor time
MEMORY = 2**30  # bytes that one file may cost

# Numbers that are often one too many.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
ENDINGS = ("mp4", "mkv", "webm", "avi", "ts", "mpg", "flv", "ogv", "asf", "gif", "m3u8", "bin")


@dataclass(frozen=True)
class Result:
    """What became of one file: `outcome` is frames, refused, hang, crash, bug or memory."""

    number: int
    base: str
    kind: str
    outcome: str
    text: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    retried: bool = False


# -- files ----------------------------------------------------------------------------------------------------------


def make_bases(folder: Path, names: tuple[str, ...] | None = None) -> list[Path]:
    """The intact files (or odd in one way) that all others are made from."""
    paths = []
    for name in names or (*ODD, *PICTURES, "sound.mp4"):
        path = folder / name
        if name in ODD:
            ODD[name](path)
        elif name in PICTURES:
            Image.fromarray(textured_frames(1, 120, 160)[0]).save(path)
        else:
            write_audio(path, "aac", cover=textured_frames(1)[0])
        paths.append(path)
    return paths


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One to three mutations of `content`; `other` is what is spliced in. Returns their names and the result."""
    kinds = rng.choice(list(MUTATIONS), size=int(rng.integers(1, 4)), replace=False)
    data = bytearray(content)
    for kind in kinds:
        data = bytearray(MUTATIONS[kind](data, other, rng)) or bytearray(b"\0")
    return "+".join(sorted(kinds)), bytes(data)


def _place(data: bytes, rng: np.random.Generator) -> int:
    # headers decide most: every second place lies in the first or last kilobytes
    where = rng.random()
    if where < 0.35:
        return int(rng.integers(0, min(len(data), 4096)))
    if where < 0.5:
        return len(data) - 1 - int(rng.integers(0, min(len(data), 4096)))
    return int(rng.integers(0, len(data)))


def _stretch(data: bytes, rng: np.random.Generator) -> slice:
    start = _place(data, rng)
    return slice(start, start + int(2 ** rng.uniform(0, np.log2(len(data) + 1))))


def _flip(data, other, rng):
    for _ in range(int(2 ** rng.uniform(0, 8))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _cut(data, other, rng):
    return data[: _place(data, rng) + 1]


def _behead(data, other, rng):
    return data[_place(data, rng) :]


def _hole(data, other, rng):
    part = _stretch(data, rng)
    data[part] = bytes([int(rng.choice([0, 0, 255]))]) * len(data[part])
    return data


def _noise(data, other, rng):
    part = _stretch(data, rng)
    data[part] = rng.bytes(len(data[part]))
    return data


def _drop(data, other, rng):
    del data[_stretch(data, rng)]
    return data


def _repeat(data, other, rng):
    part = data[_stretch(data, rng)][: 1 << 16]
    at = _place(data, rng)
    data[at:at] = part * int(rng.integers(1, 8))
    return data


def _swap(data, other, rng):
    one, two = _stretch(data, rng), _stretch(data, rng)
    size = min(len(data[one]), len(data[two]))
    one, two = slice(one.start, one.start + size), slice(two.start, two.start + size)
    data[one], data[two] = bytes(data[two]), bytes(data[one])
    return data


def _splice(data, other, rng):
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _number(data, other, rng):
    """Fields of two or four bytes in headers that become numbers at the edge."""
    for _ in range(int(rng.integers(1, 6))):
        at, size = _place(data, rng), int(rng.choice([2, 4]))
        value = int(rng.choice(EDGES)) if rng.random() < 0.7 else int(rng.integers(0, 2**32))
        data[at : at + size] = value.to_bytes(4, str(rng.choice(["big", "little"])))[:size]
    return data


def _field(data, other, rng):
    """A number behind a four-letter name, as RIFF, ISO and QuickTime have them."""
    names = [at for at in range(len(data) - 12) if data[at : at + 4].isalnum() and not data[at : at + 4].isdigit()]
    if not names:
        return _number(data, other, rng)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(names[:400])) + int(rng.choice([-4, 4, 8, 12, 16]))
        value = int(rng.choice(EDGES)) if rng.random() < 0.7 else int(rng.integers(0, 2**32))
        if at >= 0:
            data[at : at + 4] = value.to_bytes(4, str(rng.choice(["big", "little"])))
    return data


MUTATIONS = {
    "flip": _flip,
    "cut": _cut,
    "behead": _behead,
    "hole": _hole,
    "noise": _noise,
    "drop": _drop,
    "repeat": _repeat,
    "swap": _swap,
    "splice": _splice,
    "number": _number,
    "field": _field,
}


def fuzzed(bases: list[Path], seed: int, number: int) -> tuple[Path, str, str, bytes]:
    """File `number` of a run: what it is made from, its kind, its ending and its content."""
    rng = np.random.default_rng([seed, number])
    base, other = bases[number % len(bases)], bases[int(rng.integers(len(bases)))]
    kind, content = mutated(base.read_bytes(), other.read_bytes(), rng)
    ending = base.suffix[1:] if rng.random() < 0.8 else str(rng.choice(ENDINGS))
    return base, kind, ending, content


# -- one file in a worker -------------------------------------------------------------------------------------------


def _peak() -> float:
    """Bytes of memory that this process has held at most since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def look(number: int, allocate, *, bases: list[Path], seed: int) -> Result:
    """Probe one file and select from it."""
    if parent_process() is not None:
        # threads of several workers would wait for each other, which takes processor time as well
        torch.set_num_threads(1)
    base, kind, ending, content = fuzzed(bases, seed, number)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / f"file.{ending}"
        path.write_bytes(content)
        source = ImageFiles([path, base, path], fps=1) if base.name in PICTURES else _way(path, number)
        before, start = _reset_peak(), time.process_time()
        outcome, text = _outcome(source, "keyframes" if number % 2 else "auto")
        seconds, megabytes = time.process_time() - start, max(0.0, _peak() - before) / 2**20
    if seconds > SECONDS:
        outcome = "hang"
    elif megabytes > MEMORY / 2**20:
        outcome = "memory"
    return Result(number, base.name, kind, outcome, text, round(seconds, 3), round(megabytes, 1))


def _way(path: Path, number: int):
    """The same file by another way in; 2 and 3 share no factor with the number of bases: each base goes each way."""
    return (path, VideoClip(path, 0.5, 3.0), path.read_bytes())[number % 3]


def _outcome(source, scan: str) -> tuple[str, str]:
    said = []
    for attempt in (partial(probe, scan=scan), partial(probe, thorough=True), partial(select_frames, k=4, scan=scan)):
        try:
            found = attempt(source)
        except VideoError as error:
            said.append(str(error))
            if "\n" in said[-1] or not said[-1].endswith("."):
                return "bug", f"no sentence: {said[-1]!r}"
        except Exception:  # whatever else it is, it is a bug, and is told
            return "bug", traceback.format_exc(limit=-8)
        else:
            if attempt.func is select_frames:
                if found.frames.dtype != np.uint8 or not 1 <= len(found.frames) <= 4:
                    return "bug", f"frames {found.frames.dtype} {found.frames.shape}"
                json.dumps(found.to_dict(), allow_nan=False)
                return "frames", ""
            str(found)
            json.dumps(found.to_dict(), allow_nan=False)
    return "refused", said[-1]


# -- a run ----------------------------------------------------------------------------------------------------------


def run(numbers, bases: list[Path], seed: int, workers: int = 2, wait: float = WAIT, look: Job = look) -> list[Result]:
    """
    The `Result` of each file in `numbers`; `wait` is what a file may take by the clock.

    One that takes longer is looked at once more: a machine that sleeps meanwhile has a clock that goes on.
    """
    results = {result.number: result for result in _run(numbers, bases, seed, workers, wait, look)}
    late = [number for number, result in results.items() if result.outcome == "hang"]
    results |= {result.number: replace(result, retried=True) for result in _run(late, bases, seed, 1, wait, look)}
    return list(results.values())


def _run(numbers, bases: list[Path], seed: int, workers: int, wait: float, look: Job):
    job = partial(look, bases=bases, seed=seed)
    for outcome in run_jobs(job, list(numbers), workers=workers, timeout=wait, in_order=False):
        result = outcome.value
        if result is None:
            base, kind, _, _ = fuzzed(bases, seed, outcome.item)
            ended = "hang" if "took longer" in outcome.error else "crash"
            result = Result(outcome.item, base.name, kind, ended, outcome.error, wait)
        if result.outcome not in ("frames", "refused"):
            print(result, file=sys.stderr)
        yield result


def described(results: list[Result], seed: int, elapsed: float) -> dict:
    """The run as numbers."""
    outcomes = Counter(result.outcome for result in results)
    costs = np.array([(result.seconds, result.megabytes) for result in results])
    sentences = Counter(_plain(result.text) for result in results if result.outcome == "refused")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": f"python tests/fuzz_decode.py --files {len(results)} --seed {seed}",
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {"av": av.__version__, "ffmpeg": av.ffmpeg_version_info, "python": platform.python_version()},
        "files": len(results),
        "seed": seed,
        "bases": len({result.base for result in results}),
        "minutes": round(elapsed / 60, 1),
        "limits": {"cpu_seconds": SECONDS, "seconds": WAIT, "megabytes": MEMORY / 2**20},
        "retried": sum(result.retried for result in results),
        "outcomes": {name: outcomes[name] for name in ("frames", "refused", "hang", "crash", "bug", "memory")},
        "cpu_seconds": {"median": float(np.median(costs[:, 0])), "longest": float(costs[:, 0].max())},
        "megabytes": {"median": float(np.median(costs[:, 1])), "largest": float(costs[:, 1].max())},
        "refused": dict(sentences.most_common(12)),
        "failures": [asdict(result) for result in results if result.outcome not in ("frames", "refused")],
    }


def _plain(sentence: str) -> str:
    """A sentence without its numbers and names, to be counted."""
    words = re.sub(r"'[^']*'", "FILE", sentence.split(";")[0]).split()
    return " ".join("N" if any(map(str.isdigit, word)) else word for word in words)[:100]


def page(found: dict) -> str:
    """The run as a page."""
    outcomes, bad, limits = found["outcomes"], found["failures"], found["limits"]
    lines = [
        "# Mutated files through the decoder",
        "",
        f"{found['files']} files, made from {found['bases']} odd ones (and pictures) by bit flips, cuts, holes, "
        "noise, splices, swaps, and numbers at the edge in headers; each through the probe, the probe that decodes "
        "everything, and `select_frames`; as a path, a clip or bytes in turn, and every second one by a scan of its "
        f"keyframes. A file may take {limits['cpu_seconds']:g} s of processor time ({limits['seconds']:g} s by "
        f"the clock) and {limits['megabytes']:g} MB; one that takes longer is looked at once more "
        f"({found['retried']} were).",
        "",
        f"`{found['command']}` (seed {found['seed']}), commit {found['commit']}, {found['machine']}, PyAV "
        f"{found['versions']['av']} with FFmpeg {found['versions']['ffmpeg']}; {found['minutes']} minutes.",
        "",
        "| outcome | files |",
        "|---|---:|",
        *(f"| {name} | {count} |" for name, count in outcomes.items()),
        "",
        "`frames`: pictures came out. `refused`: one sentence. `hang`, `crash` (of the process), `bug` (another "
        "error) and `memory` are failures.",
        "",
        f"CPU seconds for one file: median {found['cpu_seconds']['median']:.2f}, longest "
        f"{found['cpu_seconds']['longest']:.2f}. Memory: median {found['megabytes']['median']:.0f} MB, largest "
        f"{found['megabytes']['largest']:.0f} MB.",
        "",
        "## Most frequent sentences",
        "",
        *(f"- {count} × {sentence}" for sentence, count in found["refused"].items()),
    ]
    if bad:
        lines += ["", "## Failures", "", *(f"- {r['number']} ({r['base']}, {r['kind']}): {r['outcome']}" for r in bad)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs and writes; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of files to look at again, in this process")
    parser.add_argument("--out", type=Path, help="where to write .json and .md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        bases = make_bases(Path(folder))
        if args.only is not None:
            for number in args.only:
                print(look(number, None, bases=bases, seed=args.seed))
            return 0
        start = time.monotonic()
        results = run(range(args.files), bases, args.seed, args.workers)
    found = described(results, args.seed, time.monotonic() - start)
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(page(found))
    print(page(found))
    return int(bool(found["failures"]))


if __name__ == "__main__":
    sys.exit(main())
