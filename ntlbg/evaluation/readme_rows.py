"""The README's table of benches.

    python -m ntlbg.evaluation.readme_rows README.md

Every figure in it is taken from the JSON that its bench wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ntlbg.evaluation import training_seeds
from ntlbg.evaluation.bench_page import write_between
from ntlbg.evaluation.decode_report import SCAN_GOAL, against, cheaper, found_by
from ntlbg.evaluation.efficiency_report import parameters_of
from ntlbg.evaluation.frames_report import OURS, REFERENCE, best_rival, rivals
from ntlbg.evaluation.needle_report import mean_share
from ntlbg.evaluation.selector_report import table


START, END = "<!-- bench-rows: written by `make readme` -->", "<!-- /bench-rows -->"

# A row of the bench of losses.
TWICE = "task, twice the steps"

# The JSON of a page by its name without suffix.
Read = Callable[[str], dict]


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def efficiency(read: Read) -> str:
    """What showing our groups saves."""
    result = read("efficiency")
    compared, shape, parameters = result["compared"], result["shape"], parameters_of(result)
    speed, accuracy, at = compared["speed"], compared["accuracy"], compared["at_reference"]
    others = (
        "all groups" if speed["end_to_end"]["at_least"] else f"{compared['groups_for_equal_accuracy']} even groups"
    )
    return (
        f"{at['groups']} chosen groups are as good as {others} (ntlbg-tiny: {accuracy['ours']:.1f} %, all groups "
        f"{accuracy['all']:.1f} %); at these numbers a random-weight Qwen2-VL of {parameters:.0f} M parameters "
        f"with a CLIP in front is {speed['end_to_end']['ratio']:.0f} times as fast end to end, and "
        f"{speed['language_model']['ratio']:.0f} times in the language model, in "
        f"{100 * compared['memory_saved']:.0f} % less memory than with all groups (one film, frames of "
        f"{shape['side']} pixels, {shape['dtype']} on a {shape['device'].upper()}); as many even groups cost "
        f"less than ours, {at['even']['end_to_end']:.0f} s against {at['ntlbg']['end_to_end']:.0f}"
    )


def seeds(read: Read) -> str:
    """The luck of a training."""
    result = read("seeds")
    rules, best = result["rules"], training_seeds.best_rival(result["rules"])
    (low, high), ours = rules[best]["ours_less"], rules[OURS]
    return (
        f"macro average with {result['k']} groups over {len(ours['macro'])} trainings (the committed one among them; "
        f"one base): {ours['mean']:.1f} %, standard deviation {ours['sd']:.1f}; the best of {len(rules) - 2} "
        f"baselines ({best}) {rules[best]['mean']:.1f} %, {rules[best]['sd']:.1f}; difference "
        f"[{low:+.1f}, {high:+.1f}]"
    )


def needles(read: Read) -> str:
    """Needles asked about."""
    result = read("needles")

    def both(k: int, minutes: float) -> list[str]:
        return [
            f"{100 * mean_share(result, name, k, minutes):.1f} % "
            f"({100 * mean_share(result, name, k, minutes, 'seen'):.1f} %)"
            for name in (OURS, "uniform")
        ]

    (short, short_even), (long, long_even) = both(8, 10), both(32, 60)
    return (
        f"answered rightly (and among the chosen groups): up to ten minutes with 8 groups {short}, uniform "
        f"{short_even}; up to an hour with 32 groups {long}, uniform {long_even}"
    )


def lengths(read: Read) -> str:
    """Longer videos."""
    said = []
    for name in ("frames_512s", "frames_1024s"):
        result = read(name)
        by, at_k = result["selectors"], []
        for k in (str(REFERENCE), "32"):
            best = best_rival(result, k)
            low, high = by[best][k]["ours_less"]
            at_k.append(
                f"{by[OURS][k]['macro']:.1f} % with {k} groups, the best of {len(rivals(result))} baselines ({best}) "
                f"{by[best][k]['macro']:.1f} % (difference [{low:+.1f}, {high:+.1f}])"
            )
        said.append(
            f"{result['seconds']} seconds: {', '.join(at_k)}, uniform with 32 {by['uniform']['32']['macro']:.1f} %"
        )
    return "; ".join(said)


def backgrounds(read: Read) -> str:
    """Backgrounds never seen."""
    result = read("frames_background")
    by, k = result["selectors"], str(REFERENCE)
    best = best_rival(result, k)
    low, high = by[best][k]["ours_less"]
    shown = "no difference shown" if low <= 0 <= high else f"difference [{low:+.1f}, {high:+.1f}]"
    return (
        f"{by[OURS][k]['events']:.1f} % on questions about events; scenes are counted wrongly from whatever groups "
        f"(the oracle's: {by['oracle'][k]['accuracy']['scenes']:.1f} %), so that the macro averages are "
        f"{by[OURS][k]['macro']:.1f} % and {by[best][k]['macro']:.1f} % ({best}; {shown})"
    )


def pairs(read: Read) -> str:
    """Colours and shapes never seen together."""
    result = read("pairs")
    released, withheld = result["checkpoints"]

    def right(checkpoint: str, split: str) -> str:
        return f"{result['splits'][split]['oracle']['accuracy'][checkpoint]['all kinds']['accuracy']:.1f} %"

    return (
        f"an answerer trained without six pairs is right in {right(withheld, 'test')} of all questions and in "
        f"{right(withheld, 'test-pairs')} of those about the six pairs, one that saw them in "
        f"{right(released, 'test')} and {right(released, 'test-pairs')}"
    )


def selectors(read: Read) -> str:
    """Rules without a model."""
    by_k = read("selectors")["compared"]["by_k"]
    (first, gap), *_ = by_k.items()
    baselines = len(read("selectors")["selectors"]) - 2  # ours and the oracle
    ours = " / ".join(f"{by_k[k]['ours']:.1f}" for k in by_k)
    best = " / ".join(f"{by_k[k]['best_recall']:.1f}" for k in by_k)
    return (
        f"the default finds {ours} % of the evidence with {' / '.join(by_k)} frames, the best of {baselines} "
        f"baselines at each {best} % (difference at {first} [{gap['low']:+.1f}, {gap['high']:+.1f}])"
    )


def losses(read: Read) -> str:
    """What the losses teach."""
    result = read("losses")
    gap, steps = result["gap"], result["settings"]["steps"]
    none, once, twice = (
        f"{gap[name]['mean']:.0f} % [{gap[name]['low']:.0f}, {gap[name]['high']:.0f}]"
        for name in ("untrained", "task", TWICE)
    )
    better = [name for name, by in result["less_task"].items() if by["events"]["low"] > 0 and name != TWICE]
    shown = " and ".join(f"`{name}`" for name in better) or "none"
    return (
        f"taught by answers alone, without spans, a new selector closes {once} of the gap between uniform and oracle "
        f"in {steps} small steps and {twice} in {2 * steps}, an untrained one {none}; "
        f"shown to be better than the task loss alone on events, at {steps}: {shown}"
    )


def grounding(read: Read) -> str:
    """Moments."""
    result = read("grounding")
    scores, less, drawn = result["scores"], result["ntlbg_less_uniform"], result["drawn_less_none"][""]["miou"]

    def mean(name: str, of: str) -> str:
        return f"{scores[f'{name} | ntlbg'][of]['mean']:.3f}".removeprefix("0")

    written = ", ".join(f"{name} {mean(name, 'miou')}" for name in ("numbers", "tokens", "text"))
    beside = ", ".join(
        "{} {:+.3f} [{:+.3f}, {:+.3f}]".format(name, *(less[name]["r1@0.5"][part] for part in ("mean", "low", "high")))
        for name in ("numbers", "tokens", "text")
    )
    return (
        f"the span head reaches mIoU {mean('span head', 'miou')}, R1@.5 {mean('span head', 'r1@0.5')} and HIT@1 "
        f"{mean('span head', 'hit1')}; written by the tiny language model, mIoU is {written} (the untrained relevance "
        f"curve: {mean('curve, untrained', 'miou')}), drawn numbers less none {drawn['mean']:+.3f} "
        f"[{drawn['low']:+.3f}, {drawn['high']:+.3f}], and NTLBG's frames less as many uniform ones, R1@.5: {beside}"
    )


def decoding(read: Read) -> str:
    """What reading costs."""
    result = read("decode")
    beside = [
        f"{_span(against(result, library, measure), 2)} times {library}'s {what}"
        for measure, what in (("cpu", "CPU seconds"), ("memory", "memory"))
        for library in ("torchcodec", "decord")
    ]
    scans = {way: reached for way, reached in cheaper(result).items() if way.startswith("scan")}
    events = sum(map(len, result["events"].values()))
    alone, dear = zip(*((ratio, dear) for reached in scans.values() for _, ratio, dear in reached), strict=True)
    return (
        f"{', '.join(beside)}, for the same frames; two passes find {min(found_by(result, way) for way in scans)} of "
        f"{events} events of 4 s and cost {_span(alone, 1)} times less than a grid of 4096 frames, meant were "
        f"{SCAN_GOAL:g} (with an encoder that looks at every candidate, {_span(dear, 1)} times)"
    )


def demo(read: Read) -> str:
    """The demo, often."""
    result = read("demo")["all"]
    return f"{result['right']} of {result['asked']} answers right"


def recipe(read: Read) -> str:
    """The checkpoint, made again."""
    difference = read("tiny_recipe")["difference"]
    said = []
    for kind, by in difference.items():
        shown = by["low"] > 0 or by["high"] < 0
        if shown or kind == "all kinds":
            interval = f"{kind}: {by['mean']:+.1f} points [{by['low']:+.1f}, {by['high']:+.1f}]"
            said.append(interval if shown else f"{interval}, no difference shown")
    return "; ".join(said)


# What is compared, the sentence, its pages (text: file), and the command.
ROWS = (
    ("seconds and memory at no loss of accuracy", efficiency, {"page": "efficiency.md"}, "bench-efficiency"),
    ("the selector trained from two seeds more", seeds, {"page": "seeds.md"}, "bench-seeds"),
    ("a needle of four seconds in up to an hour of video", needles, {"page": "needles.md"}, "bench-needles"),
    ("longer videos", lengths, {"512 s": "frames_512s.md", "1024 s": "frames_1024s.md"}, "bench-splits"),
    ("backgrounds never seen, 8 groups", backgrounds, {"page": "frames_background.md"}, "bench-splits"),
    ("colours and shapes never seen together, the oracle's groups", pairs, {"page": "pairs.md"}, "bench-splits"),
    (
        "selectors without a model, over eleven synthetic worlds",
        selectors,
        {"page": "selectors.md"},
        "bench-selectors",
    ),
    ("what each training loss is worth", losses, {"page": "losses.md"}, "bench-losses"),
    (
        "when something happens (60 videos, 16 of 64 groups)",
        grounding,
        {"page": "grounding.md"},
        "bench-grounding",
    ),
    ("decoding beside torchcodec and decord", decoding, {"page": "decode.md"}, "bench-decode"),
    ("`make demo`'s own setting over 50 unseen videos", demo, {"figures": "demo.json"}, "bench-demo"),
    (
        "what `make tiny` makes today less the committed checkpoint",
        recipe,
        {"page": "tiny_recipe.md"},
        "bench-recipe",
    ),
)


def to_table(folder: Path) -> str:
    """
    The table, as Markdown.

    Args:
        folder: of the benches' JSON, as the README names it in its links.

    Raises:
        OSError: a bench has not been run. ValueError: it was, by another state of the code.
    """

    def read(name: str) -> dict:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

    rows = []
    for what, sentence, pages, command in ROWS:
        links = ", ".join(f"[{text}](docs/benchmarks/{file})" for text, file in pages.items())
        try:
            said = sentence(read)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"what {folder} holds of {', '.join(pages.values())} is not what `make {command}` writes today "
                f"({error!r}); run it again"
            ) from error
        rows.append([what, said, f"{links}, `make {command}`"])
    return table(["what is compared", "what came out", ""], rows, others="---")


def main(arguments: list[str] | None = None) -> None:
    """Write the table anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--benchmarks", type=Path, default=Path("docs/benchmarks"), help="folder of the JSON files")
    args = parser.parse_args(arguments)
    try:
        write_between(args.readme, START, END, to_table(args.benchmarks) + "\n")
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
