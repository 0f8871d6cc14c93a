"""Two checkpoints, asked the same questions about the same unseen videos of the procedural world.

    python -m ntlbg.evaluation.checkpoint_comparison checkpoints/ntlbg-tiny build/tiny/selection \\
        --out docs/benchmarks/tiny_recipe

Each answers from the k groups that its own selector chooses. The videos are real mp4 files, as in `world_benchmark`.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from ntlbg.data.questions import KINDS
from ntlbg.data.world import SPLITS
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.world_benchmark import (
    DURATION,
    accuracies,
    answers_of_video,
    current_commit,
    paired_differences,
)
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


ALL = "all kinds"


def compare(names: list[str], videos: list, k: int) -> dict[str, dict[str, list[bool]]]:
    """Whether each checkpoint's answers are right.

    Args:
        names: of the two checkpoints.
        videos: (spec, questions) pairs of `split_questions`.
        k: groups shown.

    Returns:
        {checkpoint: {kind: one bool a question, in one order for all checkpoints}}, of all kinds together under `ALL`.
    """
    models = {name: NTLBGForConditionalGeneration.from_pretrained(name).eval() for name in names}
    processors = {name: NTLBGProcessor.from_pretrained(name) for name in names}
    right: dict[str, dict[str, list[bool]]] = {name: {kind: [] for kind in (*KINDS, ALL)} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for spec, questions in tqdm(videos, desc="videos"):
            write_video(spec, path)
            for name in names:
                answers = answers_of_video(models[name], processors[name], path, questions, k, ("ntlbg",))["ntlbg"]
                for question, (text, _) in zip(questions, answers, strict=True):
                    for kind in (question.kind, ALL):
                        right[name][kind].append(text == question.answer)
    return {name: {kind: values for kind, values in kinds.items() if values} for name, kinds in right.items()}


def to_markdown(result: dict) -> str:
    """The page."""
    first, second = result["checkpoints"]
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
    return (
        f"# {second} beside {first}\n\nExact match in percent ± standard error on {result['videos']} videos of "
        f"{DURATION} seconds of the {result['split']} split, in wordings never used in training, from the "
        f"{result['k']} of {DURATION // 2} groups that each checkpoint chooses itself. The difference is paired by "
        f"question, with a 95 % bootstrap interval.\n\n{table(['checkpoint', *heads], rows)}\n\n{verdict}\n\n"
        f"Commit {result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Compare and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs=2, metavar="CHECKPOINT")
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--split", default="test", choices=tuple(SPLITS)[1:])
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--out", type=Path, help="path without suffix of the page; none is written without it")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    commit = current_commit()
    videos = split_questions(args.split, args.videos, duration=DURATION, wording="heldout")
    right = compare(args.checkpoints, videos, args.k)
    first, second = args.checkpoints
    result = {
        "checkpoints": args.checkpoints,
        "accuracy": accuracies(right),
        "difference": paired_differences(right[second], right[first]),
        "videos": args.videos,
        "k": args.k,
        "split": args.split,
        "commit": commit,
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.checkpoint_comparison {first} {second} --videos {args.videos} "
        f"--split {args.split} -k {args.k}",
    }
    page = to_markdown(result)
    print(page)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
