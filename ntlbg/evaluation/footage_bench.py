"""Selectors without a query on real footage: how well k frames stand for films cut together from clips.

    python -m ntlbg.evaluation.footage_bench FOLDER --out docs/benchmarks/selectors_footage

A film is a shuffled row of stretches of the clips in FOLDER, eight frames a second, described without weights
(`ntlbg.selection.descriptors`) and scaled to length 1. Writes JSON and a Markdown page.
"""

import argparse
import json
import platform
from pathlib import Path

import av
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.descriptor_worlds import DescriptorVideo, unit
from ntlbg.evaluation.selector_bench import KS, MEASURES, NEED_QUERY, OURS, TRUTH, choose, measure
from ntlbg.evaluation.selector_report import table
from ntlbg.selection.baselines import BASELINES
from ntlbg.selection.descriptors import describe_frames


_SUFFIXES = {".mp4", ".mkv", ".webm"}
_SIDE = 96
_STRETCH = (8, 40)  # frames


def clip_descriptors(path: Path, per_second: float = 8.0) -> np.ndarray:
    """(N, 368) descriptors of one clip's frames at steps of 1/`per_second` seconds of its own timestamps."""
    pictures, due = [], -np.inf
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= due:
                due = frame.time + 1 / per_second - 1e-3
                pictures.append(frame.reformat(width=_SIDE, height=_SIDE, format="rgb24").to_ndarray())
    return describe_frames(np.stack(pictures)).numpy()


def film(clips: list[np.ndarray], frames: int, seed: int) -> DescriptorVideo:
    """`frames` descriptors in stretches of 8 to 40 from random places of random clips; each clip is a scene."""
    rng = np.random.default_rng(seed)
    rows, scenes = [], []
    while sum(map(len, rows)) < frames:
        clip = int(rng.integers(len(clips)))
        length = min(int(rng.integers(*_STRETCH)), len(clips[clip]))
        start = int(rng.integers(len(clips[clip]) - length + 1))
        rows.append(clips[clip][start : start + length])
        scenes.append(np.full(length, clip))
    return DescriptorVideo(unit(np.concatenate(rows)[:frames]), [(0, frames)], np.concatenate(scenes)[:frames], {})


def main() -> None:
    """Run the bench and write <out>.json and <out>.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of video files")
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/selectors_footage"), help="without suffix")
    args = parser.parse_args()
    torch.set_num_threads(1)
    commit = current_commit()
    paths = sorted(path for path in args.folder.iterdir() if path.suffix in _SUFFIXES)
    if not paths:
        raise SystemExit(f"{args.folder} holds no {', '.join(sorted(_SUFFIXES))} file; give a folder of videos.")
    names = [name for name in BASELINES if name not in NEED_QUERY and name != TRUTH]
    with threadpool_limits(1):
        clips = [clip_descriptors(path) for path in paths]
        films = [film(clips, args.frames, seed) for seed in range(args.films)]
        rows = np.array(
            [[[measure(video, *choose(name, video, None, k)) for video in films] for k in KS] for name in names]
        )
    mean = rows.mean(axis=2)  # selectors, k, measures
    column = {name: at for at, name in enumerate(MEASURES)}
    result = {
        "clips": {path.name: len(clip) for path, clip in zip(paths, clips, strict=True)},
        "films": args.films,
        "frames": args.frames,
        "k": KS,
        "measures": MEASURES,
        "selectors": names,
        "mean": mean.round(4).tolist(),
        "commit": commit,
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.footage_bench FOLDER --films {args.films} --frames {args.frames}",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(to_markdown(result, mean, column), encoding="utf-8")


def to_markdown(result: dict, mean: np.ndarray, column: dict[str, int]) -> str:
    """The page; `mean` (selectors, k, measures)."""
    names, ks = result["selectors"], list(result["k"])
    order = sorted(range(len(names)), key=lambda at: mean[at, :, column["relative_mse"]].mean())
    errors = table(
        ["relative MSE", *(f"k = {k}" for k in ks)],
        [[names[at], *(f"{value:.3f}" for value in mean[at, :, column["relative_mse"]])] for at in order],
    )
    others = table(
        ["at k = 32", "log-det", "temporal entropy", "clips seen", "CPU ms"],
        [[names[at], *(f"{value:.2f}" for value in mean[at, ks.index(32), column["log_det"] :])] for at in order],
    )
    error = mean[..., column["relative_mse"]]
    ratio = error[names.index(OURS)] / error[names.index("facility_location")]
    against = ", ".join(f"{100 * (value - 1):+.0f} % at k = {k}" for k, value in zip(ks, ratio, strict=True))
    return f"""# Selectors without a query on real footage

{result["films"]} films of {result["frames"]} frames, eight a second, cut together from stretches of
{len(result["clips"])} short clips ({sum(result["clips"].values())} frames in all, so that stretches come back);
weight-free descriptors.
Relative MSE of strata against facility location's: {against}.

Commit {result["commit"]}, {result["machine"]}, `{result["command"]}`.

{errors}

{others}
"""


if __name__ == "__main__":
    main()
