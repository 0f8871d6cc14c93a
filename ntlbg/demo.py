"""`make demo`: a ten-minute video the model has never seen, rendered on the spot, watched once and asked eight
questions.

    python -m ntlbg.demo --seed 0 --out out/demo

Leaves the video, a self-contained HTML report and the same as JSON.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ntlbg.cli_ask import describe
from ntlbg.cli_common import quiet_libraries
from ntlbg.data.world_dataset import make_demo_video
from ntlbg.errors import InputError
from ntlbg.report import ReportQuestion, VideoFacts, write_report
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.video_answering import VideoAnswerer
from ntlbg.tiny_checkpoint import TINY, check_tiny


# Twice the groups of the reference setting (8 of 128) for a video 2.3 times as long.
REPRESENTATIVES = 16


def ask_all(answerer: VideoAnswerer, video: Path, questions) -> tuple[list, object]:
    """Watch `video` once and ask everything; returns the answers and the opened video."""
    opened = answerer.open(video)
    return [opened.ask(question.text, REPRESENTATIVES) for question in questions], opened


def run_demo(answerer: VideoAnswerer, seed: int, out: Path) -> float:
    """Render, watch, ask, print and report; returns the share of right answers."""
    out.mkdir(parents=True, exist_ok=True)
    video = out / f"demo-{seed}.mp4"
    start = time.perf_counter()
    spec, questions = make_demo_video(seed, video)
    rendering = time.perf_counter() - start
    print(f"rendered {spec.duration // 60} minutes with {len(spec.events)} events in {rendering:.1f} s: {video}\n")

    answers, opened = ask_all(answerer, video, questions)
    rows = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        once = {"render the video": rendering, **opened.timings} if number == 0 else {}
        rows.append(
            ReportQuestion(
                question=question.text,
                selection=answer.selection,
                frames=answer.frames,
                answer=answer.text,
                truth=question.answer,
                timings=once | answer.timings,
            )
        )
        verdict = "right" if rows[-1].verdict else "WRONG"
        print(f"{describe(answer, (0.0, spec.duration))}\ntruth: {question.answer} ({verdict})")
        print("seconds: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in rows[-1].timings.items()) + "\n")
    page, figures = write_report(
        out / f"demo-{seed}.html",
        video=VideoFacts.of(opened.candidates),
        questions=rows,
        command=f"python -m ntlbg.demo --seed {seed}",
    )
    right = sum(bool(row.verdict) for row in rows)
    print(f"{right} of {len(rows)} right; report: {page}, figures: {figures}")
    return right / len(rows)


def count_right(answerer: VideoAnswerer, seeds: range, out: Path) -> dict:
    """The demo's own setting over many videos, without reports: answers right per kind and in all."""
    out.mkdir(parents=True, exist_ok=True)
    video, tally = out / "many.mp4", {}
    for seed in tqdm(seeds, desc="demo videos"):
        _, questions = make_demo_video(seed, video)
        answers, _ = ask_all(answerer, video, questions)
        for question, answer in zip(questions, answers, strict=True):
            for kind in (question.kind, "all"):
                right, asked = tally.get(kind, (0, 0))
                tally[kind] = (right + (answer.text == question.answer), asked + 1)
    video.unlink()
    return {kind: {"right": right, "asked": asked, "share": right / asked} for kind, (right, asked) in tally.items()}


def main() -> None:
    """One demo, or with --many the count over that many fresh videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="which video of the test split")
    parser.add_argument(
        "--many", type=int, metavar="N", help="N videos from --seed on; print how many answers are right"
    )
    parser.add_argument("--json", type=Path, help="with --many: also write the counts there")
    parser.add_argument("--model", default=str(TINY), help="checkpoint (default: the embedded ntlbg-tiny)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    args = parser.parse_args()
    if args.model == str(TINY):
        try:
            check_tiny()
        except InputError as error:
            parser.exit(2, f"ntlbg: error: {error}\n")
    torch.set_num_threads(1)  # at this size more threads only wait for each other
    quiet_libraries()
    answerer = load_answerer(args.model, device="cpu", max_new_tokens=8)
    if args.many is None:
        run_demo(answerer, args.seed, args.out)
        return
    result = count_right(answerer, range(args.seed, args.seed + args.many), args.out)
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.json is not None:
        args.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
