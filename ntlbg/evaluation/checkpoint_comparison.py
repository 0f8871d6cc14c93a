"""Two checkpoints, asked the same questions about the same unseen videos of the procedural world.

    python -m ntlbg.evaluation.checkpoint_comparison checkpoints/ntlbg-tiny build/tiny/selection \\
        --out docs/benchmarks/tiny_recipe

Each answers from the k groups that its own selector chooses, or that another rule takes. The videos are real mp4
files.
"""

import argparse
import json
import platform
import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.questions import KINDS
from ntlbg.data.world import SPLITS
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.bootstrap import paired_interval
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.world_answers import ORACLE, WorldAnswerer
from ntlbg.selection.choosing import OURS, SELECTORS


ALL = "all kinds"
DURATION = 256  # seconds: 128 groups of two candidate frames at one a second

# Whether answers are right: of each checkpoint, by kind of question, (video, right) of each question, in one order.
Right = dict[str, dict[str, list[tuple[int, bool]]]]


def compare(answerers: dict[str, WorldAnswerer], videos: list, selectors: list[str], k: int) -> dict[str, Right]:
    """
    Whether each checkpoint's answers are right.

    Args:
        answerers: by the checkpoints' names.
        videos: (spec, questions) pairs of `split_questions`.
        k: groups shown.

    Returns:
        by selector; of all kinds together under `ALL`.
    """
    kinds = (*KINDS, ALL)
    right = {selector: {name: {kind: [] for kind in kinds} for name in answerers} for selector in selectors}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for spec, questions in tqdm([video for video in videos if video[1]], desc="videos"):
            write_video(spec, path)
            for name, answerer in answerers.items():
                look = answerer.look(path, questions)
                for selector in selectors:
                    texts = answerer.answer(look, list(enumerate(answerer.choose(look, selector, k))))
                    for question, text in zip(questions, texts, strict=True):
                        for kind in (question.kind, ALL):
                            right[selector][name][kind].append((spec.seed, text == question.answer))
    return {
        selector: {name: {kind: values for kind, values in kinds.items() if values} for name, kinds in by_name.items()}
        for selector, by_name in right.items()
    }


def accuracies(right: Right) -> dict[str, dict[str, dict[str, float]]]:
    """`right[name][kind]` -> accuracy and standard error in percent, and how many were asked."""
    return {
        name: {
            kind: {
                "accuracy": 100 * float(np.mean([one for _, one in values])),
                "standard_error": 100 * float(np.std([one for _, one in values]) / np.sqrt(len(values))),
                "asked": len(values),
            }
            for kind, values in kinds.items()
        }
        for name, kinds in right.items()
    }


def paired_differences(ours: dict, others: dict) -> dict[str, dict[str, float]]:
    """By kind, the mean difference in points and its 95 % interval by drawing videos; both, of `Right`, answered the
    same questions."""
    paired = {}
    for kind in ours:
        videos, first = (np.array(column) for column in zip(*ours[kind], strict=True))
        _, second = (np.array(column) for column in zip(*others[kind], strict=True))
        difference = 100.0 * (first.astype(float) - second)
        low, high = paired_interval(difference, videos)
        paired[kind] = {"mean": float(difference.mean()), "low": low, "high": high}
    return paired


def compared(right: Right) -> dict:
    """The accuracies of two checkpoints, and the second's less the first's."""
    first, second = right
    return {"accuracy": accuracies(right), "difference": paired_differences(right[second], right[first])}


def block(result: dict) -> str:
    """The table of one selector on one split, and whether it shows a difference."""
    first = next(iter(result["accuracy"]))
    kinds = list(result["accuracy"][first])
    rows = [
        [name, *(f"{row[kind]['accuracy']:.1f} ± {row[kind]['standard_error']:.1f}" for kind in kinds)]
        for name, row in result["accuracy"].items()
    ]
    spans = [result["difference"][kind] for kind in kinds]
    rows.append(["difference", *(f"{one['mean']:+.1f} [{one['low']:+.1f}, {one['high']:+.1f}]" for one in spans)])
    heads = [f"{kind} (n = {result['accuracy'][first][kind]['asked']})" for kind in kinds]
    apart = [kind for kind, one in zip(kinds, spans, strict=True) if one["low"] > 0 or one["high"] < 0]
    verdict = (
        "No difference is shown: every interval holds 0."
        if not apart
        else f"A difference is shown for {', '.join(apart)}; the other intervals hold 0."
    )
    return f"{table(['checkpoint', *heads], rows)}\n\n{verdict}\n\n"


def to_markdown(result: dict) -> str:
    """The page."""
    first, second = result["checkpoints"]
    blocks = "".join(
        f"## Split `{split}`, groups of {selector}\n\n{block(one)}"
        for split, by in result["splits"].items()
        for selector, one in by.items()
    )
    return (
        f"# {second} beside {first}\n\nExact match in percent ± standard error on {result['videos']} videos of "
        f"{DURATION} seconds of each split, in wordings never used in training, from {result['k']} of "
        f"{DURATION // 2} groups: those that each checkpoint chooses itself ({OURS}), or that another rule takes. The "
        f"difference is paired by question, with a 95 % interval by drawing videos.\n\n{blocks}Commit "
        f"{result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Compare and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs=2, metavar="CHECKPOINT")
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--split", nargs="+", default=["test"], choices=tuple(SPLITS)[1:])
    parser.add_argument("--selectors", nargs="+", default=[OURS], choices=[*SELECTORS, ORACLE], metavar="NAME")
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--out", type=Path, help="path without suffix of the page; none is written without it")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    commit = current_commit()
    answerers = {name: WorldAnswerer(name) for name in args.checkpoints}
    splits: dict = {}
    for split in args.split:
        videos = split_questions(split, args.videos, duration=DURATION, wording="heldout")
        right = compare(answerers, videos, args.selectors, args.k)
        splits[split] = {selector: compared(by_name) for selector, by_name in right.items()}
    result = {
        "checkpoints": args.checkpoints,
        "splits": splits,
        "videos": args.videos,
        "k": args.k,
        "commit": commit,
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.checkpoint_comparison {' '.join(args.checkpoints)} --videos "
        f"{args.videos} --split {' '.join(args.split)} --selectors {shlex.join(args.selectors)} -k {args.k}",
    }
    page = to_markdown(result)
    print(page)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
