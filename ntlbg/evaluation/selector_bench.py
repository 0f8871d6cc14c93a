"""Every frame selector under one roof: all of `ntlbg.selection.baselines` on synthetic worlds of frame descriptors.

    python -m ntlbg.evaluation.selector_bench --videos 20 --out docs/benchmarks/selectors

Same frames, same query vector, same k for all; one thread. With a query: evidence recall and what the choice costs in
coverage. Without one: how well k frames stand for the rest. Then CPU time at T = 8192, d = 1024, and its growth with
T. Writes JSON, a Markdown page and a picture. Needs `pip install 'ntlbg[bench,eval]'`.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.bootstrap import paired_interval
from ntlbg.evaluation.descriptor_worlds import CUES, FRAMES, WORLDS, WRITTEN_LATER, DescriptorVideo, unit
from ntlbg.evaluation.selector_report import draw, to_markdown
from ntlbg.modeling_ntlbg.scorer_ntlbg import relevance_to
from ntlbg.modeling_ntlbg.strata_ntlbg import select_representatives
from ntlbg.modeling_ntlbg.streaming_ntlbg import StreamingGaussian
from ntlbg.selection.baselines import BASELINES
from ntlbg.selection.baselines.diverse import facility_location_order


KS = (8, 16, 32, 64)
OURS, TRUTH = "strata", "oracle"
MEASURES = ("recall", "relative_mse", "log_det", "entropy", "scenes", "ms")
NEED_QUERY = frozenset(name for name, select in BASELINES.items() if select.needs_query)
_SPEED_FRAMES, _SPEED_CHANNELS = 8192, 1024


def relative_mse(frames: np.ndarray, indices: np.ndarray) -> float:
    """mean_t min_i |x_t - x_i|² / mean_t |x_t - xbar|² of unit rows (N, d): the information loss, 0 at best."""
    x = frames.astype(np.float64)
    nearest = np.maximum(2 - 2 * (x @ x[indices].T).max(axis=1), 0.0)
    return float(nearest.mean() / max(np.square(x - x.mean(axis=0)).sum(axis=1).mean(), 1e-12))


def log_det(frames: np.ndarray, indices: np.ndarray, noise: float = 0.01) -> float:
    """log det(I + K/noise)/k in nats a frame, K the cosines of the chosen frames less the video's mean: diversity."""
    x = (frames - frames.mean(axis=0))[indices].astype(np.float64)
    return float(np.linalg.slogdet(np.eye(len(x)) + x @ x.T / noise)[1] / len(x))


def temporal_entropy(count: int, indices: np.ndarray) -> float:
    """Entropy of the k times in min(k, 32) equal bins over its largest value, in [0, 1]; 1 for k = 1."""
    bins = min(len(indices), 32)
    if bins == 1:
        return 1.0
    share = np.bincount(indices * bins // count, minlength=bins) / len(indices)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(bins))


def measure(video: DescriptorVideo, indices: np.ndarray, seconds: float) -> list[float]:
    """One row of `MEASURES`: shares in [0, 1] apart from log_det (nats a frame) and ms (CPU milliseconds)."""
    hit = [bool(((indices >= start) & (indices < end)).any()) for start, end in video.pieces]
    return [
        float(np.mean(hit)),
        relative_mse(video.frames, indices),
        log_det(video.frames, indices),
        temporal_entropy(len(video.frames), indices),
        len(np.unique(video.scenes[indices])) / len(np.unique(video.scenes)),
        1e3 * seconds,
    ]


def choose(name: str, video: DescriptorVideo, query: np.ndarray | None, k: int) -> tuple[np.ndarray, float]:
    """Indices and CPU seconds of one selector."""
    start = time.process_time()
    indices = BASELINES[name](video.frames, query, k, evidence=video.evidence)
    return indices, time.process_time() - start


def run_with_query(videos: dict[str, list[DescriptorVideo]]) -> np.ndarray:
    """(selectors, worlds, cues, k, videos, measures); the oracle is among the selectors."""
    table = np.zeros(
        (len(BASELINES), len(videos), len(CUES), len(KS), len(next(iter(videos.values()))), len(MEASURES))
    )
    for w, world in enumerate(tqdm(videos, desc="worlds, with a query")):
        for v, video in enumerate(videos[world]):
            for c, query in enumerate(video.queries.values()):
                for i, k in enumerate(KS):
                    for s, name in enumerate(BASELINES):
                        table[s, w, c, i, v] = measure(video, *choose(name, video, query, k))
    return table


def run_without_query(videos: dict[str, list[DescriptorVideo]]) -> tuple[list[str], np.ndarray]:
    """The selectors that need neither query nor evidence, and (selectors, worlds, k, videos, measures)."""
    names = [name for name in BASELINES if name not in NEED_QUERY and name != TRUTH]
    table = np.zeros((len(names), len(videos), len(KS), len(next(iter(videos.values()))), len(MEASURES)))
    for w, world in enumerate(tqdm(videos, desc="worlds, without a query")):
        for v, video in enumerate(videos[world]):
            for i, k in enumerate(KS):
                for s, name in enumerate(names):
                    table[s, w, i, v] = measure(video, *choose(name, video, None, k))
    return names, table


def against_best(recall: np.ndarray, names: list[str]) -> dict:
    """`strata` less the baseline with the highest mean recall; `recall` (selectors, videos), in points, paired by
    video, with a 95 % bootstrap interval. The oracle is no baseline."""
    rivals = [at for at, name in enumerate(names) if name not in (OURS, TRUTH)]
    best = max(rivals, key=lambda at: recall[at].mean())
    ours = recall[names.index(OURS)]
    difference = 100 * (ours - recall[best])
    low, high = paired_interval(difference)
    return {
        "ours": 100 * float(ours.mean()),
        "best": names[best],
        "best_recall": 100 * float(recall[best].mean()),
        "mean": float(difference.mean()),
        "low": low,
        "high": high,
    }


def compare(recall: np.ndarray) -> dict:
    """`against_best` by k, and by world and cue at each k; `recall` (selectors, worlds, cues, k, videos)."""
    names = list(BASELINES)
    flat = recall.mean(axis=2).swapaxes(1, 2).reshape(len(names), len(KS), -1)
    fresh = recall[:, [list(WORLDS).index(world) for world in WRITTEN_LATER]]
    fresh = fresh.mean(axis=2).swapaxes(1, 2).reshape(len(names), len(KS), -1)
    return {
        "by_k": {str(k): against_best(flat[:, i], names) for i, k in enumerate(KS)},
        "written_later_by_k": {str(k): against_best(fresh[:, i], names) for i, k in enumerate(KS)},
        "by_world": {
            world: {str(k): against_best(recall[:, w, :, i].mean(axis=1), names) for i, k in enumerate(KS)}
            for w, world in enumerate(WORLDS)
        },
        "by_cue": {
            cue: {str(k): against_best(recall[:, :, c, i].reshape(len(names), -1), names) for i, k in enumerate(KS)}
            for c, cue in enumerate(CUES)
        },
    }


def long_video(count: int, channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (count, channels) float32, about 140 to a scene, drifting within it, and a query near one of them."""
    rng = np.random.default_rng(seed)
    scenes = max(2, count // 140)
    centres = rng.normal(size=(scenes, channels)) * 3 + rng.normal(size=channels) * 6
    borders = np.sort(rng.choice(np.arange(1, count), scenes - 1, replace=False))
    scene = np.searchsorted(borders, np.arange(count), side="right")
    phase = np.sin(np.arange(count)[:, None] / 40 * rng.uniform(0.5, 1.5, 8)) @ rng.normal(size=(8, channels))
    frames = unit(centres[scene] + phase + 1.5 * rng.normal(size=(count, channels)))
    return frames, unit(frames[count // 3] + frames.mean(axis=0))


def cpu_seconds(work, repeats: int) -> float:
    """The least CPU time of `repeats` runs."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def run_speed() -> dict:
    """CPU seconds of the selection alone, in one run: ours, k-means (10 iterations), greedy facility location; and
    ours for T = 1k .. 64k at k = 256, d = 256, beside what the streaming Gaussian holds in memory."""

    frames, query = long_video(_SPEED_FRAMES, _SPEED_CHANNELS)
    x = torch.from_numpy(frames)
    relevance = relevance_to(x, torch.from_numpy(query))
    result: dict = {"frames": _SPEED_FRAMES, "channels": _SPEED_CHANNELS, "k": {}, "growth": {}}
    for k in (256, 1024):
        row = {
            "with a query": cpu_seconds(lambda k=k: select_representatives(x, k, relevance=relevance), 5),
            "without a query": cpu_seconds(lambda k=k: select_representatives(x, k), 5),
        }
        for start in ("k-means++", "random"):
            model = KMeans(k, init=start, n_init=1, max_iter=10, tol=0.0, random_state=0)
            row[f"k-means, 10 iterations, {start} start"] = cpu_seconds(lambda model=model: model.fit(frames), 1)
        row["facility location, lazy greedy"] = cpu_seconds(
            lambda k=k: facility_location_order(1 + frames @ frames.T, np.zeros(len(frames)), k), 1
        )
        result["k"][str(k)] = row
    for count in (1024, 4096, 16384, 65536):
        frames, query = long_video(count, 256)
        x = torch.from_numpy(frames)
        relevance = relevance_to(x, torch.from_numpy(query))
        stream = StreamingGaussian(32)
        for chunk in x.split(1024):
            stream.update(chunk)
        result["growth"][str(count)] = {
            "with a query, ms": 1e3
            * cpu_seconds(lambda x=x, relevance=relevance: select_representatives(x, 256, relevance=relevance), 3),
            "without a query, ms": 1e3 * cpu_seconds(lambda x=x: select_representatives(x, 256), 3),
            "streaming Gaussian's state, KiB": state_bytes(stream) / 1024,
        }
    return result


def state_bytes(stream: StreamingGaussian) -> int:
    """What a stream's tensors take in memory between two updates."""
    return sum(value.untyped_storage().nbytes() for value in vars(stream).values() if isinstance(value, torch.Tensor))


def bench(count: int) -> dict:
    """Everything but the files: `count` videos of each world."""
    videos = {world: [make(seed) for seed in range(count)] for world, make in WORLDS.items()}
    asked = run_with_query(videos)
    names, blind = run_without_query(videos)
    return {
        "videos": count,
        "frames": FRAMES,
        "worlds": {world: make.__doc__ for world, make in WORLDS.items()},
        "cues": CUES,
        "k": KS,
        "measures": MEASURES,
        "selectors": list(BASELINES),
        "mean": asked.mean(axis=4).round(4).tolist(),
        "recall_standard_error": (asked[..., 0].std(axis=4) / np.sqrt(count)).round(4).tolist(),
        "written_later": list(WRITTEN_LATER),
        "compared": compare(asked[..., 0]),
        "without_query": {"selectors": names, "mean": blind.mean(axis=3).round(4).tolist()},
    }


def main() -> None:
    """Run the bench and write <out>.json, <out>.md and <out>.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20, help="of each world")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/selectors"), help="path without suffix")
    parser.add_argument("--speed-only", action="store_true", help="measure speed again, keep the rest of <out>.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    commit = current_commit()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        if args.speed_only:
            result = json.loads(args.out.with_suffix(".json").read_text(encoding="utf-8"))
        else:
            result = bench(args.videos)
            result["commit"] = commit
            result["machine"] = f"{platform.machine()} CPU, 1 thread"
            result["command"] = f"python -m ntlbg.evaluation.selector_bench --videos {args.videos}"
        result["speed"] = run_speed()
    result["speed"]["commit"] = commit
    args.out.with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(to_markdown(result, args.out.name), encoding="utf-8")
    draw(result, args.out.with_suffix(".png"))
    print(json.dumps(result["compared"]["by_k"], indent=1))


if __name__ == "__main__":
    main()
