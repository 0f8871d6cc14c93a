"""The page and the picture of `efficiency`, from its JSON."""

from __future__ import annotations

import itertools
from pathlib import Path

from ntlbg.evaluation.efficiency_run import STAGES
from ntlbg.evaluation.selector_report import table


SPEED, MEMORY, POINTS, GATE = 2.5, 0.4, 1.0, 0.9


def parameters_of(result: dict) -> float:
    """Millions of parameters of the model without the encoder in front of it."""
    return max(case["parameters"] for case in result["cases"] if case["way"] == "even") / 1e6


def verdicts(compared: dict) -> list[str]:
    """Each promise with its figure, in sentences."""
    said, accuracy = [], compared["accuracy"]
    share = accuracy["all"] / accuracy["oracle"]
    gate = "the comparison counts" if share >= GATE else f"below {GATE:.0%}, so that the comparison is void"
    said.append(
        f"All groups reach {share:.1%} of the oracle's accuracy ({accuracy['all']:.1f} of {accuracy['oracle']:.1f} "
        f"%): {gate}."
    )
    names = {"end_to_end": "End to end, decoding and selection included", "language_model": "Language model alone"}
    for part, name in names.items():
        one = compared["speed"][part]
        if one["at_least"]:
            reached = compared["share_of_draws_with_equal_accuracy"]
            against = (
                f"all groups (no number of even ones is as good on average, in {reached:.1%} of the draws one is)"
            )
        else:
            against = f"{compared['groups_for_equal_accuracy']} even groups, which are as good"
        if one["low"] < one["high"]:
            drawn = f"95 % of the draws of videos: {one['low']:.1f} to {one['high']:.1f}"
        else:
            drawn = "all groups in every draw of videos, so that there is no interval"
        word = "held" if one["ratio"] >= SPEED else "not held"
        said.append(f"{name}: {one['ratio']:.1f} times as fast as {against}; {drawn} (promised {SPEED}: {word}).")
    less = accuracy["all"] - accuracy["ours"]
    held = compared["memory_saved"] >= MEMORY and less <= POINTS
    said.append(
        f"Memory above the libraries, weights included: {compared['memory_saved']:.0%} below that of all groups "
        f"({compared['memory_saved_above_weights']:.0%} of what comes above the weights), at {-less:+.1f} points of "
        f"accuracy (promised {MEMORY:.0%} within {POINTS:.0f} point: {'held' if held else 'not held'})."
    )
    groups, ours, even = (compared["at_reference"][name] for name in ("groups", "ntlbg", "even"))
    said.append(
        f"Beside as many even groups, {groups}, ours cost {ours['end_to_end']:.0f} seconds against "
        f"{even['end_to_end']:.0f}, and {ours['peak_mib']:.0f} MiB against {even['peak_mib']:.0f}."
    )
    return said


def _seconds(case: dict) -> str:
    """End-to-end seconds, with those of the single runs where there are several."""
    runs = sorted(sum(one.values()) for one in case["seconds"])
    spread = f" ({runs[0]:.1f} to {runs[-1]:.1f})" if len(runs) > 1 else ""
    return f"{case['end_to_end']:.2f}{spread}"


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    cases = result["cases"]
    stages = [stage for stage in STAGES if any(stage in case["stages"] for case in cases)]
    seconds = table(
        ["way", "groups", "visual tokens", "runs", *stages, "end to end", "language model"],
        [
            [
                case["way"],
                str(case["groups"]),
                str(case["tokens"]),
                str(len(case["seconds"])),
                *(f"{case['stages'][stage]:.2f}" if stage in case["stages"] else "" for stage in stages),
                _seconds(case),
                f"{case['language_model']:.2f}",
            ]
            for case in cases
        ],
    )
    costs = table(
        ["way", "groups", *(f"{stage}, TFLOP" for stage in stages), "all, TFLOP", "peak, MiB", "weights, MiB"],
        [
            [
                case["way"],
                str(case["groups"]),
                *(f"{case['flops'][stage] / 1e12:.3f}" if stage in case["flops"] else "" for stage in stages),
                f"{sum(case['flops'].values()) / 1e12:.2f}",
                f"{case['peak_mib']:.0f}",
                f"{case['weights_mib']:.0f}",
            ]
            for case in cases
        ],
    )
    film, shape, parameters = result["film"], result["shape"], parameters_of(result)
    sentences = "\n".join(f"- {line}" for line in verdicts(result["compared"]))
    source = result["accuracies"]["page"].removesuffix(".json")
    setting = (
        f"One question to one film of {film['seconds']} seconds ({film['fps']} pictures a second, {film['side']} "
        f"pixels wide), N = {result['candidates']} candidates at {result['candidate_fps']:g} a second for the ways "
        f"that choose; a random-weight Qwen2-VL of {parameters:.0f} M parameters reads frames of {shape['side']} "
        f"pixels in {shape['dtype']}. `ntlbg` looks twice: a random-weight CLIP ViT-B/32 over all candidates, then "
        "the chosen groups at full size; `ntlbg one look` sends all candidates through the vision tower; `even` reads "
        "that many groups at even steps, the last row all of them. Each row is a process of its own: medians of "
        f"{result['repeats']} runs after a first one, in which operations are counted, or that first one where it "
        f"takes more than {result['patience']:g} seconds. The prefill of `ntlbg` is what generation takes to its "
        f"first token less its vision tower, timed by itself. Accuracies are those of [{source}]({source}.md)"
        ", measured with ntlbg-tiny at these numbers: a random-weight model has none, and the tiny one costs "
        "nothing."
    )
    return (
        f"# Cost against groups shown\n\n{setting}\n\n{sentences}\n\n![Accuracy against seconds and memory]"
        f"({picture}.png)\n\n## Seconds\n\n{seconds}\n\n## Floating-point operations and memory\n\nPeak: the most "
        "resident memory above what the interpreter and its libraries take, weights included.\n\n"
        f"{costs}\n\nCommit {result['commit']}, {result['machine']}, `{result['command']}`.\n"
    )


def draw(result: dict, frames: dict, path: Path) -> None:
    """Accuracy against end-to-end seconds, language-model seconds and peak memory; a line a way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    (all_row,) = frames["selectors"]["all"].values()

    def accuracy(case: dict) -> float:
        name = "uniform" if case["way"] == "even" else "ntlbg"
        row = frames["selectors"][name].get(str(case["groups"]), all_row)
        return row["macro"]

    measures = (
        ("end to end, seconds", lambda case: case["end_to_end"]),
        ("language model, seconds", lambda case: case["language_model"]),
        ("peak memory, GiB", lambda case: case["peak_mib"] / 1024),
    )
    # Colour, mark, and where the numbers of groups stand in turn: ours above and below, as their points lie close.
    looks = {
        "ntlbg": ("#c04a00", "o", ((0, 7), (0, -15))),
        "ntlbg one look": ("#a5417f", "D", ((-11, -3),)),
        "even": ("#0068a8", "s", ((10, -11),)),
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    for place, (title, measure) in zip(axes, measures, strict=True):
        for way, (colour, mark, sides) in looks.items():
            cases = [case for case in result["cases"] if case["way"] == way]
            places = [(measure(case), accuracy(case), case["groups"]) for case in cases]
            place.plot(*zip(*[one[:2] for one in places], strict=True), color=colour, marker=mark, label=way)
            for (x, y, groups), side in zip(places, itertools.cycle(sides), strict=False):
                place.annotate(str(groups), (x, y), xytext=side, textcoords="offset points", ha="center", fontsize=8)
        if place is not axes[-1]:
            place.set_xscale("log")
        place.set_xlabel(title)
        place.grid(alpha=0.25)
        place.margins(x=0.09)
    axes[-1].set_xlim(left=0)
    axes[0].set_ylabel("exact match, macro average over kinds (%)")
    axes[0].set_ylim(0, 106)
    axes[0].legend(frameon=False, title="numbers: groups shown")
    figure.savefig(path, dpi=130)
    plt.close(figure)
