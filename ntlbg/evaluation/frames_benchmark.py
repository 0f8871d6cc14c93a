"""Accuracy against the number of groups shown, for every selector, on unseen videos of the procedural world.

    python -m ntlbg.evaluation.frames_benchmark --videos 200 --out docs/benchmarks/frames

One model answers from what each selector takes of the same candidates: ours, every published rule with our trained
relevance in the place of its scores, ours asked another question, the oracle, and all groups. Results are kept in the
--work folder, a line a video, so that a run that was cut off goes on where it stopped. Writes JSON, a Markdown page
and a picture.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.questions import GLOBAL_KINDS, KINDS, Question, span_groups
from ntlbg.data.world import SPLITS
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import commits_of, current_commit, write_bench
from ntlbg.evaluation.frames_report import draw, to_markdown
from ntlbg.evaluation.ledger import open_ledger
from ntlbg.evaluation.selector_bench import relative_mse, temporal_entropy
from ntlbg.evaluation.world_answers import EVERYTHING, ORACLE, SHUFFLED, Look, WorldAnswerer
from ntlbg.modeling_ntlbg.gaussian_ntlbg import fit_gaussian
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.selection.choosing import SELECTORS


GROUPS = (4, 8, 16, 32, 64)
# Rules that draw are drawn three times, and count as the mean of their draws.
DRAWN = ("random", "q_frame", "ada_q", "focus")
DRAWS = (0, 1, 2)
# The other question is that of the next video with one of the same kind; so many follow the last one.
LATER = 20
KEPT_DRAWS = 400
# The specification's figures of merit, as `FIGURES` of a choice, beside the share of the evidence it sees.
FIGURES = ("evidence", "constraint", "uniformity", "information_loss")


def figures(look: Look, question: Question, selection: Selection, mahalanobis: torch.Tensor) -> list[float]:
    """
    `FIGURES` of one choice.

    Constraint: Var(m)/mean(m)² of the chosen groups' squared Mahalanobis distances m to the video's Gaussian.
    Uniformity: entropy of their times in min(k, 32) bins over its largest value. Information loss: mean distance² to
    the nearest chosen descriptor over the video's variance. Evidence: the share of the question's spans with a chosen
    group in them; NaN where there is none, or the whole video is the evidence.
    """
    groups = selection.indices.numpy()
    chosen = mahalanobis[selection.indices].double()
    spans = [] if question.is_global else span_groups(question, len(look.seconds))
    seen = [bool(np.isin(span, groups).any()) for span in spans]
    unit = torch.nn.functional.normalize(look.features.descriptors.float(), dim=-1).numpy()
    return [
        float(np.mean(seen)) if seen else float("nan"),
        float(chosen.var(unbiased=False) / chosen.mean().square().clamp(min=1e-12)),
        temporal_entropy(len(look.seconds), groups),
        relative_mse(unit, groups),
    ]


def run_video(
    answerer: WorldAnswerer,
    video: Path,
    questions: Sequence[Question],
    others: Sequence[str] | None,
    selectors: Sequence[str],
    groups: Sequence[int],
    seconds: int,
) -> dict:
    """
    One video of so many seconds, with a candidate in each, all selectors, all numbers of groups.

    Returns:
        {"asked": [{"kind", "pieces"}] of the Q questions, "right": {selector: {k: (Q,) shares of draws}}, "figures":
        {selector: {k: (Q, FIGURES) means of draws}}}; "all" has the one k that is the number of groups.
    """
    look = answerer.look(video, questions, others, candidate_fps=1.0, max_candidates=seconds)
    distances = fit_gaussian(look.features.descriptors).mahalanobis(look.features.descriptors)
    places, asked = [], []
    for selector in selectors:
        for k in (len(look.seconds),) if selector == EVERYTHING else groups:
            for draw_number in DRAWS if selector in DRAWN else DRAWS[:1]:
                for row, selection in enumerate(answerer.choose(look, selector, k, seed=draw_number)):
                    places.append((selector, str(k), row))
                    asked.append((row, selection))
    texts = answerer.answer(look, asked)
    right: dict = {selector: {} for selector in selectors}
    measured: dict = {selector: {} for selector in selectors}
    for (selector, k, row), (_, selection), text in zip(places, asked, texts, strict=True):
        rows = right[selector].setdefault(k, [[] for _ in questions])
        rows[row].append(text == questions[row].answer)
        rows = measured[selector].setdefault(k, [[] for _ in questions])
        rows[row].append(figures(look, questions[row], selection, distances))
    return {
        "asked": [{"kind": q.kind, "pieces": 0 if q.is_global else len(q.spans)} for q in questions],
        "right": {
            name: {k: [float(np.mean(draws)) for draws in rows] for k, rows in by.items()}
            for name, by in right.items()
        },
        "figures": {
            name: {k: [np.mean(draws, axis=0).round(5).tolist() for draws in rows] for k, rows in by.items()}
            for name, by in measured.items()
        },
    }


def summarise(videos: list[dict]) -> dict:
    """
    All videos' lines in one table.

    Returns:
        per selector and k: `accuracy` by kind, in percent; `macro`, their mean, and `macro_draws`, 2,000 bootstrap
        means of it over videos (the same videos for all selectors, so that differences are paired); `events` and
        `events_draws`, the same over the kinds that ask about events; `pieces`, by the number of pieces of evidence;
        `figures`, means over questions.
    """
    kinds = [kind for kind in KINDS if any(one["kind"] == kind for video in videos for one in video["asked"])]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(videos), np.full(len(videos), 1 / len(videos)), size=2000).astype(float)
    of_events = [at for at, kind in enumerate(kinds) if kind not in GLOBAL_KINDS]
    counts = np.array([[sum(one["kind"] == kind for one in video["asked"]) for kind in kinds] for video in videos])
    summary: dict = {}
    for selector in videos[0]["right"]:
        for k in videos[0]["right"][selector]:
            values = [list(zip(video["asked"], video["right"][selector][k], strict=True)) for video in videos]
            hits = np.array(
                [[sum(share for one, share in rows if one["kind"] == kind) for kind in kinds] for rows in values]
            )
            pieces: dict[int, list[float]] = {}
            for rows in values:
                for one, share in rows:
                    if one["kind"] in ("retrieve", "order", "count"):
                        pieces.setdefault(one["pieces"], []).append(share)
            measured = np.array([row for video in videos for row in video["figures"][selector][k]], dtype=float)
            summary.setdefault(selector, {})[k] = {
                "accuracy": dict(zip(kinds, (100 * hits.sum(0) / counts.sum(0)).tolist(), strict=True)),
                "macro": float(100 * (hits.sum(0) / counts.sum(0)).mean()),
                "macro_draws": 100 * _means(weights @ hits, weights @ counts),
                "events": float(100 * (hits.sum(0) / counts.sum(0))[of_events].mean()),
                "events_draws": 100 * _means((weights @ hits)[:, of_events], (weights @ counts)[:, of_events]),
                "pieces": {str(n): 100 * float(np.mean(pieces[n])) for n in sorted(pieces)},
                "figures": dict(zip(FIGURES, np.nanmean(measured, axis=0).tolist(), strict=True)),
            }
    return {
        "kinds": {kind: int(n) for kind, n in zip(kinds, counts.sum(0), strict=True)},
        "selectors": summary,
    }


def _means(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Macro averages (draws,) of hits over counts (draws, kinds); a kind that a draw has no question of counts not."""
    return np.divide(hits, counts, out=np.zeros_like(hits), where=counts > 0).sum(axis=1) / (counts > 0).sum(axis=1)


def with_intervals(summary: dict) -> dict:
    """Replace the draws of each macro average by its 95 % interval, and by that of ours less it, those over events by
    that of it less uniform, all paired by video; the first `KEPT_DRAWS` of those that costs are compared at stay,
    under "draws"."""
    compared = {name: by_k for name, by_k in summary["selectors"].items() if name in ("ntlbg", "uniform", EVERYTHING)}
    summary["draws"] = {
        name: {k: row["macro_draws"][:KEPT_DRAWS].round(2).tolist() for k, row in by_k.items()}
        for name, by_k in compared.items()
    }
    ours = {k: row["macro_draws"] for k, row in summary["selectors"]["ntlbg"].items()}
    even = {k: row["events_draws"] for k, row in summary["selectors"].get("uniform", {}).items()}
    for by_k in summary["selectors"].values():
        for k, row in by_k.items():
            draws, events = row.pop("macro_draws"), row.pop("events_draws")
            row["macro_interval"] = np.quantile(draws, (0.025, 0.975)).tolist()
            if k in ours:
                row["ours_less"] = np.quantile(ours[k] - draws, (0.025, 0.975)).tolist()
            if k in even:
                row["events_less_uniform"] = np.quantile(events - even[k], (0.025, 0.975)).tolist()
    return summary


def main(arguments: list[str] | None = None) -> None:
    """Run, or go on, and write JSON, page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/ntlbg-tiny")
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--split", default="test", choices=tuple(SPLITS)[1:])
    parser.add_argument("--seconds", type=int, default=256, help="length of each video; 2 seconds are a group")
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    parser.add_argument("--selectors", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/frames"), help="path without suffix")
    parser.add_argument("--work", type=Path, default=Path("build/frames"), help="folder that keeps finished videos")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    selectors = args.selectors or [*SELECTORS, SHUFFLED, ORACLE, EVERYTHING]
    if "ntlbg" not in selectors:
        parser.error("the others are held against ntlbg; name it among --selectors")
    commit = current_commit()
    settings = {
        "model": args.model,
        "split": args.split,
        "seconds": args.seconds,
        "groups": args.groups,
        "selectors": selectors,
    }
    try:
        videos = split_questions(args.split, args.videos + LATER, duration=args.seconds, wording="heldout")
    except ValueError as error:
        parser.error(str(error))
    ledger = open_ledger(parser, args, settings, ("number",))
    answerer = WorldAnswerer(args.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for number, (spec, questions) in enumerate(tqdm(videos[: args.videos], desc="videos")):
            if (number,) in ledger.lines:
                continue
            write_video(spec, path)
            following = [other for _, theirs in videos[number + 1 :] for other in theirs]
            others = [next(other.text for other in following if other.kind == one.kind) for one in questions]
            found = run_video(answerer, path, questions, others, selectors, args.groups, args.seconds)
            ledger.add({"number": number, "commit": commit} | found)
    lines = [ledger.lines[(number,)] for number in range(args.videos)]
    summary = with_intervals(summarise(lines))
    result = {
        **summary,
        "videos": args.videos,
        "split": args.split,
        "seconds": args.seconds,
        "candidates": args.seconds,
        "candidate_fps": 1.0,
        "groups": args.groups,
        "commit": commits_of(lines),
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.frames_benchmark --model {args.model} --videos {args.videos} "
        f"--split {args.split} --seconds {args.seconds} --groups {' '.join(map(str, args.groups))}"
        + ("" if args.selectors is None else f" --selectors {shlex.join(args.selectors)}"),
    }
    write_bench(args.out, result, lambda path: draw(result, path), to_markdown(result, args.out.name))


if __name__ == "__main__":
    main()
