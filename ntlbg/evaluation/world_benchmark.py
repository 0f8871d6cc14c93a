"""ntlbg-tiny on unseen videos of the procedural world: what each selector's k groups let the same model answer.

    python -m ntlbg.evaluation.world_benchmark --videos 400 --out docs/benchmarks/tiny

Each video is a real mp4, read by the processor, encoded once, and asked one question of every kind it has a clear
answer to (not every video has a clearly longest scene), in a wording never used in training. The model and its frames'
features are the same for every selector; only the groups it may see differ.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ntlbg.data.questions import KINDS, oracle_groups, uniform_groups
from ntlbg.data.world_dataset import split_questions
from ntlbg.data.world_video import write_video
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor


SELECTORS = ("ntlbg", "uniform", "topk", "oracle", "all")
README_START = "<!-- tiny-table: written by `make bench-tiny` -->"
README_END = "<!-- /tiny-table -->"
DURATION = 256  # seconds: 128 groups of two candidate frames at one a second


def given_selections(selector: str, questions, logits: torch.Tensor, seconds: torch.Tensor, k: int) -> list[Selection]:
    """The groups a baseline takes for each question of one video; `logits` (questions, T) are the trained
    relevance."""
    total = len(seconds)
    chosen = {
        "uniform": lambda row, question: uniform_groups(total, k),
        "topk": lambda row, question: logits[row].topk(min(k, total)).indices,
        "oracle": lambda row, question: oracle_groups(question, total, k),
        "all": lambda row, question: np.arange(total),
    }[selector]
    return [
        Selection.from_indices(torch.as_tensor(chosen(row, question)), seconds)
        for row, question in enumerate(questions)
    ]


@torch.no_grad()
def answers_of_video(
    model, processor, path, questions, k: int, selectors: Sequence[str] = SELECTORS
) -> dict[str, list[tuple[str, list[int]]]]:
    """For every selector, the answer to each question and the groups it was given from."""
    candidates = processor.video_processor.fetch(path)[0]
    rows = [
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question.text}]}]
        for question in questions
    ]
    first = processor(rows[0], videos=[candidates])
    features = model.encode_video(**first)[0]
    # One batch of all questions; the pixels were encoded above, once.
    inputs = dict(
        processor(rows, videos=[[candidates] for _ in rows], padding=True, text_kwargs={"padding_side": "left"})
    )
    inputs.pop("pixel_values_videos")
    features_per_row = [features] * len(rows)
    logits = model.relevance_logits(features, inputs["query_input_ids"], inputs["query_attention_mask"])
    results = {}
    for selector in selectors:
        choice = {"num_representatives": k}
        if selector != "ntlbg":
            choice = {"selection": given_selections(selector, questions, logits, first["group_timestamps"], k)}
        output = model.generate(
            **inputs,
            **choice,
            video_features=features_per_row,
            return_selection=True,
            max_new_tokens=8,
            do_sample=False,
        )
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        groups = [selection.indices.tolist() for selection in output.selections]
        results[selector] = list(zip((text.strip() for text in texts), groups, strict=True))
    return results


def paired_interval(difference: np.ndarray, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of per-video differences (n,), by bootstrap over videos."""
    rng = np.random.default_rng(seed)
    means = rng.choice(difference, size=(draws, len(difference))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def accuracies(right: dict[str, dict[str, list[bool]]]) -> dict[str, dict[str, dict[str, float]]]:
    """`right[name][kind]` -> accuracy and standard error in percent, and how many were asked."""
    return {
        name: {
            kind: {
                "accuracy": 100 * float(np.mean(values)),
                "standard_error": 100 * float(np.std(values) / np.sqrt(len(values))),
                "asked": len(values),
            }
            for kind, values in kinds.items()
        }
        for name, kinds in right.items()
    }


def summarise(right: dict[str, dict[str, list[bool]]]) -> dict:
    """`right[selector][kind]` -> accuracies, and NTLBG less uniform with its interval."""
    return {
        "accuracy": accuracies(right),
        "ntlbg_less_uniform": paired_differences(right["ntlbg"], right["uniform"]),
    }


def paired_differences(ours: dict[str, list[bool]], others: dict[str, list[bool]]) -> dict[str, dict[str, float]]:
    """By kind, the mean difference in points and its 95 % interval; both answered the same questions, in one order."""
    paired = {}
    for kind in ours:
        difference = 100.0 * (np.array(ours[kind], float) - np.array(others[kind], float))
        low, high = paired_interval(difference)
        paired[kind] = {"mean": float(difference.mean()), "low": low, "high": high}
    return paired


def accuracy_table(result: dict) -> str:
    """Selectors by kinds in Markdown, with the paired gap of ntlbg and uniform as the last row."""
    table, paired = result["accuracy"], result["ntlbg_less_uniform"]
    kinds = list(table["ntlbg"])
    heads = [f"{kind} (n = {table['ntlbg'][kind]['asked']})" for kind in kinds]
    lines = ["| selector | " + " | ".join(heads) + " |", "|---|" + "---|" * len(kinds)]
    for selector, row in table.items():
        cells = [f"{row[kind]['accuracy']:.1f} ± {row[kind]['standard_error']:.1f}" for kind in kinds]
        lines.append(f"| {selector} | " + " | ".join(cells) + " |")
    gaps = [f"{paired[kind]['mean']:+.1f} [{paired[kind]['low']:+.1f}, {paired[kind]['high']:+.1f}]" for kind in kinds]
    lines.append("| ntlbg less uniform | " + " | ".join(gaps) + " |")
    return "\n".join(lines)


def to_markdown(result: dict) -> str:
    """What the README shows and the page beside the JSON repeats."""
    return (
        f"Exact match in percent ± standard error on {result['videos']} unseen videos of {DURATION} seconds (wordings "
        f"never used in training): {result['k']} of {DURATION // 2} groups, one candidate frame a second. `all` sees "
        "every group, `oracle` knows where the evidence is, `topk` takes the highest of the same trained relevance. "
        f"The gap is paired by video, with a 95 % bootstrap interval.\n\n{accuracy_table(result)}\n\nCommit "
        f"{result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def write_between_markers(page: Path, content: str) -> None:
    """Replace what stands between the README's two markers of this table."""
    before, rest = page.read_text(encoding="utf-8").split(README_START)
    _, after = rest.split(README_END)
    page.write_text(f"{before}{README_START}\n{content}{README_END}{after}", encoding="utf-8")


def current_commit() -> str:
    """The commit of this code, marked where the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return described.stdout.strip()


def main() -> None:
    """Run the benchmark and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/ntlbg-tiny")
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--wording", default="heldout", choices=("train", "heldout"))
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/tiny"), help="path without suffix")
    parser.add_argument("--readme", type=Path, help="page whose table is written anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # What could fail at the end fails here, before the long work.
    commit = current_commit()
    if args.readme is not None and args.readme.read_text(encoding="utf-8").count(README_START) != 1:
        parser.error(f"{args.readme} should hold {README_START!r} once, and does not; put it where the table goes")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    model = NTLBGForConditionalGeneration.from_pretrained(args.model).eval()
    processor = NTLBGProcessor.from_pretrained(args.model)

    right = {selector: {kind: [] for kind in KINDS} for selector in SELECTORS}
    wrong = []
    videos = split_questions(args.split, args.videos, duration=DURATION, wording=args.wording)
    with tempfile.TemporaryDirectory() as folder:
        for spec, questions in tqdm(videos, desc="videos"):
            path = Path(folder) / "video.mp4"
            write_video(spec, path)
            answers = answers_of_video(model, processor, path, questions, args.k)
            for selector, given in answers.items():
                for question, (text, groups) in zip(questions, given, strict=True):
                    right[selector][question.kind].append(text == question.answer)
                    if text != question.answer and selector in ("ntlbg", "oracle"):
                        wrong.append(
                            {
                                "selector": selector,
                                "seed": spec.seed,
                                "question": question.text,
                                "answer": text,
                                "truth": question.answer,
                                "spans": question.spans,
                                "groups": groups,
                            }
                        )
    result = {
        **summarise(right),
        "videos": args.videos,
        "k": args.k,
        "split": args.split,
        "wording": args.wording,
        "commit": commit,
        "machine": f"{platform.machine()} CPU, 1 thread",
        "command": f"python -m ntlbg.evaluation.world_benchmark --model {args.model} --videos {args.videos} "
        f"--split {args.split} --wording {args.wording} -k {args.k}",
        "wrong": wrong,
    }
    args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    content = to_markdown(result)
    args.out.with_suffix(".md").write_text(f"# ntlbg-tiny on the procedural world\n\n{content}", encoding="utf-8")
    if args.readme is not None:
        write_between_markers(args.readme, content)
    print(content)


if __name__ == "__main__":
    main()
