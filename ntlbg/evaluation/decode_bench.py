"""What decoding costs: ours beside torchcodec and decord, and two passes beside a dense grid.

    python -m ntlbg.evaluation.decode_bench --films build/films --out docs/benchmarks/decode --rounds 2

The films are made on the spot (`decode_films`, a few minutes, kept). Every measurement is a process of its own; the
libraries take turns, round after round, and what was measured is kept beside the films, so that a run that was cut
off goes on where it stopped. One decoding thread each, except where two are compared. CPU seconds count from the
unopened file to the frames in memory, without imports; memory is the peak of the resident set above what it was
after the imports.

On Linux; the other libraries come with `pip install 'ntlbg[bench]'`, and one that is missing is left out and named.
Where torchcodec finds no FFmpeg it is lent the one in PyAV's wheel.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.decode_films import FILMS, make_film
from ntlbg.evaluation.decode_jobs import FOUND_BY, WAYS
from ntlbg.evaluation.decode_report import draw, to_markdown


LIBRARIES = ("ours", "torchcodec", "decord")
COUNTS = (64, 512, 4096)
COMPARED = ("10min_720p", "60min_360p")
# With how many threads, and what is read with them besides.
THREADS, THREADED_COUNT, THREADED = 2, 512, ("ours", "torchcodec")
CHOSEN = 64
_JOBS = "ntlbg.evaluation.decode_jobs"


def plan(films: Iterable[str], compared: Iterable[str], counts: Iterable[int], libraries: Iterable[str]) -> list[dict]:
    """All measurements of one round, those to be compared beside one another."""
    jobs = []
    for film, count in product(compared, counts):
        job = {"task": "grid", "film": film, "count": count}
        jobs += [job | {"library": name, "threads": 1} for name in libraries]
        if count == THREADED_COUNT:
            jobs += [job | {"library": name, "threads": THREADS} for name in THREADED if name in libraries]
    jobs += [{"task": "passes", "film": film, "way": way, "k": CHOSEN} for film, way in product(films, WAYS)]
    return [*jobs, {"task": "encoder"}]


class Measurer:
    """Runs jobs, each in a process of its own, and keeps what they measured in a file.

    Args:
        folder: where the films are, and `measured.json`.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "measured.json"
        here = Path(__file__).parent
        processors = here.parents[1] / "processors"
        decoding = sorted(set(processors.glob("video_*.py")) - {processors / "video_processing_ntlbg.py"})
        code = [here / "decode_jobs.py", *decoding]
        versions = [_version(name) for name in ("av", "torchcodec", "decord", "torch")]
        told = json.dumps([versions, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in code)])
        # what other code measured is not taken up again
        self.key = hashlib.sha256(told.encode()).hexdigest()[:16]
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.measured = kept["measured"] if kept.get("key") == self.key else {}
        self.environment = dict(os.environ)

    def run(self, job: dict) -> dict:
        """The measurement of `job`; raises `RuntimeError` with the last line that the process said."""
        told = job | {"path": str(self.folder / f"{job['film']}.mp4")} if "film" in job else job
        done = subprocess.run(
            [sys.executable, "-m", _JOBS, json.dumps(told)],
            capture_output=True,
            text=True,
            env=self.environment | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
        return json.loads(done.stdout.splitlines()[-1])

    def kept(self, job: dict, turn: int) -> dict:
        """What `job` measured in this turn, now or before."""
        name = json.dumps([turn, job], sort_keys=True)
        if name not in self.measured:
            self.measured[name] = self.run(job)
            self.path.write_text(json.dumps({"key": self.key, "measured": self.measured}))
        return self.measured[name]

    def lend_ffmpeg(self, film: str) -> str:
        """Makes torchcodec find the FFmpeg in PyAV's wheel where it finds none; says which one it runs with.

        Raises:
            RuntimeError: it runs with neither.
        """
        job = {"task": "grid", "film": film, "count": 1, "library": "torchcodec"}
        try:
            self.run(job)
            return "FFmpeg of this system"
        except RuntimeError:
            import av

            wheel, links = Path(av.__file__).parents[1] / "av.libs", self.folder / "ffmpeg"
            links.mkdir(exist_ok=True)
            for library in wheel.glob("lib*.so.*"):
                # libavutil-5809ad29.so.60.26.102 is asked for as libavutil.so.60
                name = f"{library.name.split('-')[0]}.so.{library.name.split('.so.')[1].split('.')[0]}"
                if name.startswith(("libav", "libsw")) and not (links / name).is_symlink():
                    (links / name).symlink_to(library)
            self.environment["LD_LIBRARY_PATH"] = os.pathsep.join(
                [str(links.resolve()), str(wheel), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            )
            self.run(job)
            return "the FFmpeg in PyAV's wheel, the one that ours runs with"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable(measurer: Measurer, film: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The libraries that run here, and for each of the others in one line why it does not; tried on `film`."""
    notes = {}
    for library in LIBRARIES[1:]:
        if _version(library) is None:
            notes[library] = "not measured: it is not installed"
            continue
        try:
            if library == "torchcodec":
                notes[library] = f"{_version(library)} with {measurer.lend_ffmpeg(film)}"
            else:
                measurer.run({"task": "grid", "film": film, "count": 1, "library": library})
                notes[library] = f"{_version(library)} with the FFmpeg in its wheel"
        except RuntimeError as error:
            notes[library] = f"not measured: {error}"
    return tuple(name for name in LIBRARIES if not notes.get(name, "").startswith("not measured")), notes


def summary(jobs: list[dict], rounds: list[list[dict]]) -> list[dict]:
    """Per job what is the same in every round, and the median and extremes of what is measured."""
    rows = []
    for number, job in enumerate(jobs):
        taken = [measured[number] for measured in rounds]
        row = job | {name: value for name, value in taken[0].items() if not isinstance(value, float)}
        for name in (name for name, value in taken[0].items() if isinstance(value, float)):
            values = [measured[name] for measured in taken]
            row[name], row[f"{name}_range"] = float(np.median(values)), [min(values), max(values)]
        rows.append(row)
    return rows


def compare_looks(rows: list[dict]) -> None:
    """Puts `differs`, the mean difference of 255 from what ours showed, in the place of the coarse views."""
    grids = [row for row in rows if row["task"] == "grid"]
    ours = {(row["film"], row["count"]): row["looks"] for row in grids if row["library"] == "ours"}
    for row in grids:
        look = np.array(row.pop("looks"))
        row["differs"] = float(np.abs(look - ours[row["film"], row["count"]]).mean())


def measure(measurer: Measurer, jobs: list[dict], turns: int) -> list[dict]:
    """All jobs, turn after turn: a row each."""
    rounds = []
    with tqdm(total=turns * len(jobs), desc="measure") as bar:
        for turn in range(turns):
            rounds.append([])
            for job in jobs:
                rounds[-1].append(measurer.kept(job, turn))
                bar.update()
    rows = summary(jobs, rounds)
    compare_looks(rows)
    return rows


def main() -> None:
    """Run the bench and write <out>.json, <out>.md and <out>.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("build/films"), help="folder for what is made and measured")
    parser.add_argument(
        "--rounds", type=int, default=2, help="how often everything is measured (default: %(default)s)"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, metavar="N", help="frames taken from a film")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/decode"), help="without suffix")
    arguments = parser.parse_args()

    events = {}
    for name, film in FILMS.items():
        print(f"film {name}", file=sys.stderr)
        events[name] = [vars(event) for event in make_film(film, arguments.films)[1]]
    measurer = Measurer(arguments.films)
    libraries, notes = usable(measurer, COMPARED[0])
    result = {
        "films": {name: vars(film) for name, film in FILMS.items()},
        "events": events,
        "libraries": {"ours": f"PyAV {_version('av')}", **notes},
        "rounds": arguments.rounds,
        "found_by": FOUND_BY,
        "rows": measure(measurer, plan(FILMS, COMPARED, arguments.counts, libraries), arguments.rounds),
        "command": " ".join(["python -m ntlbg.evaluation.decode_bench", *sys.argv[1:]]),
        "commit": current_commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(to_markdown(result, arguments.out.name))
    draw(result, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
