"""The grounding bench's figures, page and picture, from its answers."""

import platform
from pathlib import Path

import numpy as np

from ntlbg.evaluation.highlight_scores import highlight_scores
from ntlbg.evaluation.loss_report import interval, weights_of_draws
from ntlbg.evaluation.selector_report import table
from ntlbg.evaluation.span_scores import grounding_scores


# What is wanted: on unseen videos, of spans and of saliency.
WANTED = {"miou": 0.6, "r1@0.5": 0.7, "hit1": 0.8}
METRICS = ("miou", "r1@0.3", "r1@0.5", "r1@0.7")


def of_rows(result: dict, rows: list[dict]) -> dict[str, list[float]]:
    """The metrics of every row by itself, and `unparsed`; `hit1` where the result has saliency."""
    each = [grounding_scores([span], [row["spans"]]) for span, row in zip(result["spans"], rows, strict=True)]
    scores = {name: [one[name] for one in each] for name in (*METRICS, "unparsed")}
    if result.get("saliency"):
        curves = zip(result["saliency"], rows, strict=True)
        scores["hit1"] = [highlight_scores([{"saliency": curve}], [row])["hit1_very_good"] for curve, row in curves]
    return scores


def summarise(results: dict[str, dict], rows: list[dict]) -> dict:
    """
    Args:
        results: "<what> | <frames>": for each row `spans` (or None), and `saliency` or none.
        rows: those that were asked.

    Returns:
        `scores` {name: {metric: {"mean", "low", "high"}}}, with 95 % intervals over whole videos; `ntlbg_less_uniform`
        {what: {metric: the same of the paired difference}}; `drawn_less_none` the same for numbers on frames against
        none, on the model's own frames; `examples` {name: the first row's answer}.
    """
    scored = {name: of_rows(result, rows) for name, result in results.items()}
    _, weights = weights_of_draws(1, [row["video_id"] for row in rows])

    def told(values) -> dict[str, float]:
        values = np.asarray(values, float)
        low, high = interval(weights @ values / weights.sum(axis=1))
        return {"mean": float(values.mean()), "low": low, "high": high}

    def less(first: str, second: str) -> dict[str, dict]:
        both = [name for name in scored[first] if name in METRICS]
        return {name: told(np.subtract(scored[first][name], scored[second][name])) for name in both}

    names = [name.split(" | ")[0] for name in scored if name.endswith(" | uniform")]
    return {
        "asked": len(rows),
        "videos": len({row["video_id"] for row in rows}),
        "scores": {
            name: {metric: told(values) for metric, values in by_metric.items()} for name, by_metric in scored.items()
        },
        "ntlbg_less_uniform": {name: less(f"{name} | ntlbg", f"{name} | uniform") for name in names},
        "drawn_less_none": {
            when: less(f"numbers{when} | ntlbg", f"numbers, none drawn{when} | ntlbg") for when in ("", ", untrained")
        },
        "examples": {name: result["texts"][0] for name, result in results.items() if result.get("texts")},
        "machine": f"{platform.machine()} CPU, 1 thread",
    }


def _cell(told: dict | None, digits: int = 3) -> str:
    if told is None:
        return "–"
    return f"{told['mean']:.{digits}f} [{told['low']:.{digits}f}, {told['high']:.{digits}f}]"


def _difference(told: dict) -> str:
    return f"{told['mean']:+.3f} [{told['low']:+.3f}, {told['high']:+.3f}]"


def _verdicts(result: dict) -> str:
    """What is wanted and what is so, in sentences."""
    lines = []
    for name, scores in result["scores"].items():
        if "untrained" in name:
            continue
        wanted = {metric: least for metric, least in WANTED.items() if metric in scores}
        word = "yes" if all(scores[metric]["mean"] >= least for metric, least in wanted.items()) else "no"
        parts = ", ".join(
            f"{metric} {scores[metric]['mean']:.3f} (wanted {least:g})" for metric, least in wanted.items()
        )
        lines.append(f"- {name.replace(' | ', ', frames by ')}: {parts}: {word}.")
    return "\n".join(lines)


def _drawing(result: dict) -> str:
    """Whether numbers on the frames helped the trained model, by the paired intervals."""
    words = []
    for metric, label in (("miou", "mIoU"), ("r1@0.5", "R1@.5")):
        told = result["drawn_less_none"][""][metric]
        word = "better" if told["low"] > 0 else "worse" if told["high"] < 0 else "neither better nor worse"
        words.append(f"{word} in {label}")
    return f"With drawn numbers the trained model is {' and '.join(words)}, by the intervals below."


def _untrained(result: dict) -> str:
    """What the rows of the untrained writer can decide."""
    unread = [
        scores["unparsed"]["mean"]
        for name, scores in result["scores"].items()
        if name.startswith("numbers") and "untrained" in name
    ]
    if min(unread) == 1:
        return "The untrained model names no span, with numbers or without: its rows decide nothing."
    return f"Of the untrained model's answers at least {100 * min(unread):.1f} % name no span."


def to_markdown(result: dict, picture: str) -> str:
    """The page.

    Args:
        result: of `summarise`, with the run's facts; `notes`, where it has some, are paragraphs about this one run.
        picture: the PNG's name without suffix.
    """
    settings = result["settings"]
    rows = []
    for name, scores in result["scores"].items():
        what, frames = name.split(" | ")
        cells = [_cell(scores[metric]) for metric in METRICS]
        unread = f"{100 * scores['unparsed']['mean']:.1f} %"
        rows.append([what, frames, *cells, unread, _cell(scores.get("hit1"))])
    scores = table(["", "frames", "mIoU", "R1@.3", "R1@.5", "R1@.7", "no span read", "HIT@1"], rows)
    paired = table(
        ["NTLBG less uniform frames", "mIoU", "R1@.5"],
        [
            [what, _difference(by["miou"]), _difference(by["r1@0.5"])]
            for what, by in result["ntlbg_less_uniform"].items()
        ],
    )
    drawn = table(
        ["numbers drawn less none drawn", "mIoU", "R1@.5"],
        [
            [when.removeprefix(", ") or "trained", _difference(by["miou"]), _difference(by["r1@0.5"])]
            for when, by in result["drawn_less_none"].items()
        ],
    )
    notes = "".join(f"{note}\n\n" for note in result.get("notes", ()))
    examples = "\n".join(f"- {name}: `{text}`" for name, text in result["examples"].items())
    return f"""# When it happens: numbers, tokens, text and a span head

{result["asked"]} queries about {result["videos"]} unseen videos of 128 seconds ({settings["split"]} split of the
procedural world's moments, queries worded as none in training): 8 events of 3 to 30 seconds, borders on any second,
64 groups of 2 seconds, {settings["k"]} of them shown. ntlbg-tiny with a span head was trained by `NTLBGTrainer` (stage
"joint": the language model in full, no adapters; the vision tower frozen) on {settings["train_videos"]} videos:
{settings["steps"]} steps of {settings["batch"]} queries in all formats, each batch in one, with {settings["joint_k"]}
groups shown; from there on {settings["own_steps"]} steps for each format by itself. Half of all batches were shown
evenly spaced groups. The span head is asked after the first of these. Intervals are 95 % bootstrap intervals over
whole videos. HIT@1 is that of clips of the level "very good"; an answer that names no span scores 0 and is counted.

{result["machine"]}, {sum(result["train_seconds"]) / 60:.0f} minutes of training; trained at commit
{", ".join(result["commits"]["trained"])}, asked at {result["commits"]["asked"]}. `{result["command"]}`

## What is wanted and what is so

{_verdicts(result)}

![mIoU and R1@.5]({picture}.png)

## Scores

{scores}

"curve" is what `ntlbg ground` reads off the relevance of the committed checkpoint, which was never trained on moments.
"numbers, none drawn" asks for numbers that are not on the frames: the model can only count positions.
{_drawing(result)}
A frame of 56 pixels a side leaves a number few of them, and the frozen tower was never taught to read.
{_untrained(result)}

The span head reads the descriptors of all groups, not the shown ones alone, so that NTLBG's frames against uniform
ones say little for it. It always names a span: its "no span read" is 0 by construction.

{notes}## Paired differences

{paired}

{drawn}

## The first query's answers

{examples}
"""


def draw(result: dict, path: str | Path) -> None:
    """Write the picture: mIoU and R1@.5 of everything, on the model's own frames and on evenly spaced ones."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name.split(" | ")[0] for name in result["scores"]))
    figure = Figure(figsize=(10, 1.8 + 0.55 * len(names)), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, metric, label in zip(both, ("miou", "r1@0.5"), ("mIoU", "R1@.5"), strict=True):
        for frames, color, shift in (("ntlbg", "C0", -0.13), ("uniform", "C1", 0.13)):
            told = [(place, result["scores"].get(f"{name} | {frames}")) for place, name in enumerate(names)]
            for place, scores in told:
                if scores is not None:
                    row = scores[metric]
                    axes.plot([row["low"], row["high"]], [place + shift] * 2, color=color)
                    axes.plot(row["mean"], place + shift, "o", color=color)
            axes.plot([], [], "o-", color=color, label="frames by NTLBG" if frames == "ntlbg" else "uniform frames")
        axes.axvline(WANTED[metric], color="C3", linestyle="--", linewidth=0.8, label="wanted")
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"{label}, 95 % interval over videos")
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_yticks(range(len(names)), names)
    both[0].invert_yaxis()
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


__all__ = ["METRICS", "WANTED", "draw", "of_rows", "summarise", "to_markdown"]
