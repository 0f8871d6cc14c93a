"""The decoder bench's page and picture, from its JSON."""

from pathlib import Path

import numpy as np

from ntlbg.evaluation.selector_report import table


# What the bench is held to: ours at most these shares of the others' CPU seconds and memory, and the scan so many
# times cheaper than the grid.
CPU_GOAL, MEMORY_GOAL, SCAN_GOAL = 0.75, 1.0, 5.0
_COLOURS = {"ours": "black", "torchcodec": "tab:orange", "decord": "tab:blue"}


def _grids(result: dict, threaded: bool = False) -> dict[tuple[str, int], dict[str, dict]]:
    """(film, frames asked for) -> library -> row, with one decoding thread or with more."""
    grids: dict[tuple[str, int], dict[str, dict]] = {}
    for row in result["rows"]:
        if row["task"] == "grid" and (row["threads"] > 1) == threaded:
            grids.setdefault((row["film"], row["count"]), {})[row["library"]] = row
    return grids


def _passes(result: dict) -> dict[str, dict[str, dict]]:
    """film -> way -> row."""
    films: dict[str, dict[str, dict]] = {}
    for row in result["rows"]:
        if row["task"] == "passes":
            films.setdefault(row["film"], {})[row["way"]] = row
    return films


def against(result: dict, library: str, measure: str) -> list[float]:
    """Our `measure`, "cpu" or "memory", over that of another library, of each grid with one thread."""
    return [by["ours"][measure] / by[library][measure] for by in _grids(result).values()]


def cheaper(result: dict) -> dict[str, list[tuple[str, float, float]]]:
    """way -> (film, times less CPU than its densest grid, the same with an encoder that looks at every candidate) of
    each film."""
    each = next(row["cpu"] for row in result["rows"] if row["task"] == "encoder")
    ratios: dict[str, list[tuple[str, float, float]]] = {}
    for film, ways in _passes(result).items():
        dense = next(iter(ways.values()))
        for way, row in ways.items():
            dear = (dense["cpu"] + each * dense["candidates"]) / (row["cpu"] + each * row["candidates"])
            ratios.setdefault(way, []).append((film, dense["cpu"] / row["cpu"], dear))
    return ratios


def found_by(result: dict, way: str) -> int:
    """Events of all films that a way finds."""
    return sum(sum(ways[way]["found"]) for ways in _passes(result).values())


def _verdict(values: list[float], goal: float, at_most: bool = True) -> str:
    met = sum(value <= goal if at_most else value >= goal for value in values)
    return f"met in {met} of {len(values)} cases" if met < len(values) else f"met in all {len(values)} cases"


def _libraries(result: dict) -> tuple[str, list[str]]:
    """The table, and a line for each goal."""
    grids = _grids(result)
    others = [name for name in _COLOURS if name != "ours" and name in next(iter(grids.values()))]
    heads = ["film, frames", "ours: CPU s", *(f"{name} (ours/its)" for name in others)]
    heads += ["ours: MiB", *(f"{name} (ours/its)" for name in others), "pictures differ by"]
    rows, verdicts = [], []
    for (film, count), by in grids.items():
        cells = [f"{film}, {count}"]
        for measure, digits in (("cpu", 1), ("memory", 0)):
            ours = by["ours"][measure]
            cells.append(f"{ours:.{digits}f}")
            cells += [f"{by[name][measure]:.{digits}f} ({ours / by[name][measure]:.2f})" for name in others]
        cells.append(", ".join(f"{by[name]['differs']:.1f}" for name in others))
        rows.append(cells)
    for measure, goal, what in (("cpu", CPU_GOAL, "CPU seconds"), ("memory", MEMORY_GOAL, "Peak memory")):
        for name in others:
            ratios = against(result, name, measure)
            verdicts.append(
                f"- {what} at most {goal:g} times {name}'s: {_verdict(ratios, goal)} (ratios "
                f"{min(ratios):.2f} to {max(ratios):.2f})."
            )
    return table(heads, rows), verdicts


def _threads(result: dict) -> tuple[str, list[str]]:
    """The table, and a line of what threads bring."""
    heads = ["film, frames", "library", "threads", "CPU s", "wall s", "MiB"]
    rows, gains, costs = [], [], []
    single = _grids(result)
    for (film, count), more in _grids(result, threaded=True).items():
        for name, row in more.items():
            for taken in (single[film, count][name], row):
                cells = [f"{film}, {count}", name, str(taken["threads"])]
                rows.append([*cells, f"{taken['cpu']:.1f}", f"{taken['wall']:.1f}", f"{taken['memory']:.0f}"])
        one, many = single[film, count]["ours"], more["ours"]
        gains.append(one["wall"] / many["wall"])
        costs.append(many["cpu"] / one["cpu"])
    if not rows:
        return "Not measured.", []
    return table(heads, rows), [
        f"- Two threads of ours take {min(gains):.2f} to {max(gains):.2f} times less wall time than one, and "
        f"{min(costs):.2f} to {max(costs):.2f} times its CPU seconds."
    ]


def _ways(result: dict) -> tuple[str, list[str]]:
    """The table, and a line for each way to scan."""
    heads = ["film, way", "candidates", "widest gap, s", "first look", "choose", "read again", "CPU s", "grid/this"]
    heads += ["with encoder", "MiB", "events seen", "found"]
    rows, verdicts, ratios = [], [], cheaper(result)
    for at, (film, ways) in enumerate(_passes(result).items()):
        for way, row in ways.items():
            _, ratio, dear = ratios[way][at]
            cells = [f"{film}, {way}", str(row["candidates"]), f"{row['widest']:.1f}"]
            cells += [f"{row[part]:.1f}" for part in ("first", "choose", "second", "cpu")]
            cells += [f"{ratio:.1f}", f"{dear:.1f}", f"{row['memory']:.0f}"]
            rows.append([*cells, *(f"{sum(row[what])} of {len(row[what])}" for what in ("seen", "found"))])
    total = sum(len(events) for events in result["events"].values())
    for way, reached in list(ratios.items())[1:]:
        found = found_by(result, way)
        parts = ", ".join(f"{film} {ratio:.1f} (with an encoder {dear:.1f})" for film, ratio, dear in reached)
        verdict = _verdict([ratio for _, ratio, _ in reached], SCAN_GOAL, at_most=False)
        verdicts.append(
            f"- {way}: {found} of {total} events found; cheaper than the grid: {parts}. At least 5: {verdict}."
        )
    return table(heads, rows), verdicts


def _misses(result: dict) -> str:
    """Every event that some way does not find."""
    lines = []
    for film, ways in _passes(result).items():
        for number, event in enumerate(result["events"][film]):
            missed = [way for way, row in ways.items() if not row["found"][number]]
            if missed:
                when = f"{event['start']:.1f} to {event['end']:.1f} s"
                lines.append(f"- {film}, {when} ({event['kind']}): {', '.join(missed)}")
    return "\n".join(lines) or "None."


# Measured once with the films of the bench, outside of its rounds.
_TRIED = """\
Whatever is between two keyframes costs all reference pictures since the first of them. To leave no gap of more than
4 s, six tenths of a GOP of 10 s must be decoded, two thirds of one of 12 s; the grid pays for little more than all
of it. So a scan that misses no event of 4 s cannot be five times cheaper on such GOPs, unless the pictures
themselves get cheaper:

- Without the deblocking filter (done): a tenth to a fifth less.
- Fills moved to the nearest reference picture: no gain that can be measured (the last fill of a GOP decides).
- Besides, all B-pictures left out, also those that others refer to: the first look at gaps of 4 s takes 3.5 instead
  of 5.2 s (20min_360p_blind), 8.4 instead of 11.0 s (60min_360p), 4.7 instead of 6.2 s (10min_720p); the pictures
  stay the same here, where nothing but B-pictures refers to them. Where P-pictures do, as in two of three pieces of
  footage, drafts are off by 1.0 and 1.8 instead of .7 of 255 on average, and nothing bounds it. Not taken: it does
  not reach the goal either.
- Keyframes alone reach the factor, and miss what the table says.

With an encoder that looks at each candidate the number of candidates decides. An hour without a gap of more than 4 s
takes at least 900 of them, and 4096 / 900 is 4.6.
"""


def to_markdown(result: dict, picture: str) -> str:
    """The page; `picture` is the PNG's name without suffix."""
    libraries, library_verdicts = _libraries(result)
    threads, thread_verdicts = _threads(result)
    ways, way_verdicts = _ways(result)
    each = next(row["cpu"] for row in result["rows"] if row["task"] == "encoder")
    chosen = next(row["k"] for row in result["rows"] if row["task"] == "passes")
    films = "\n".join(
        f"- {name}: {film['width']} x {film['height']}, {film['seconds']} s at 25 a second, keyframes "
        + (f"every {film['keyint']} pictures and nowhere else" if film["blind"] else "at cuts, and at most 10 s apart")
        + f", {film['events']} events of 4 s"
        for name, film in result["films"].items()
    )
    names = "\n".join(f"- {name}: {note}" for name, note in result["libraries"].items())
    verdicts = "\n".join(library_verdicts + thread_verdicts + way_verdicts)
    return f"""# What decoding costs

Made films, coded by x264 (superfast, CRF 24): textured shots that pan, things that move, grain, cuts. Events last four
seconds; half are cut into the film, half appear inside a running shot.

{films}

Libraries:

{names}

{result["rounds"]} rounds, the libraries in turns, each measurement a process of its own; medians. CPU
seconds from the unopened file to the frames in memory, without imports. Memory: peak above what the process held after
its imports (and those of torchcodec bring torch). One decoding thread each, except under "Threads".

Commit {result["commit"]}, {result["machine"]}, `{result["command"]}`.

![CPU seconds of the libraries; CPU seconds and events found of the ways to look]({picture}.png)

## What holds and what does not

{verdicts}

## N frames of 224 x 126 at even steps

{libraries}

The last column compares coarse views of up to 32 frames (16 x 9 blocks, mean difference of 255): the libraries gave
the same pictures; scaling and colour conversion differ.

## Threads

{threads}

Ours shares out whole groups of pictures, each thread with an opening of the file of its own; torchcodec lets FFmpeg
decode several pictures at once, which every jump interrupts. Wall time is that of a machine that does other things,
too.

## Two passes

From the file to {chosen} frames at full size, chosen without a question by the weight-free descriptor. `first look`
decodes candidates at 192 pixels, `choose` describes and selects, `read again` decodes the chosen exactly. "With
encoder" is the same ratio when a vision tower shaped like SigLIP's base sees every candidate at {each:.2f} CPU seconds
each (measured, and multiplied). An event is seen where a candidate lies in it, and found where one of the
{result["found_by"]} candidates nearest to a picture of it does.

{ways}

Events that a way does not find:

{_misses(result)}

## Why not cheaper

{_TRIED}
## When which is right

- **Grid** (the default of `decode_candidates` and of the model's processor): candidates at even steps, each exact.
  Right for short films, for training, and wherever steps of time matter.
- **Scan** (the default of `select_frames` for long files): a bound on the gap at the least decoding. Its price grows
  with the share of the film that lies further than the gap before the next keyframe: files with keyframes at cuts
  gain most.
- **Keyframes alone** miss what happens between them; nothing here uses them so.
"""


def draw(result: dict, path: Path) -> None:
    """CPU seconds of the libraries, and of the ways to look with what they find, to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    grids, passes = _grids(result), _passes(result)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    libraries = [name for name in _COLOURS if name in next(iter(grids.values()))]
    width = 0.8 / len(libraries)
    for at, name in enumerate(libraries):
        places = np.arange(len(grids)) + (at - (len(libraries) - 1) / 2) * width
        heights = [by[name]["cpu"] for by in grids.values()]
        left.bar(places, heights, 0.92 * width, color=_COLOURS[name], label=name)
        for place, height in zip(places, heights, strict=True):
            left.annotate(
                f"{height:.0f}" if height >= 10 else f"{height:.1f}",
                (place, height),
                ha="center",
                va="bottom",
                fontsize=8,
            )
    left.set_xticks(range(len(grids)), [f"{film}\n{count} frames" for film, count in grids], fontsize=8)
    left.set(ylabel="CPU seconds", title="N frames at even steps")
    left.legend()
    markers = dict(zip(passes, "os^Dv", strict=False))
    colours = dict(zip(next(iter(passes.values())), ("tab:blue", "black", "tab:green", "tab:red"), strict=True))
    for film, ways in passes.items():
        for way, row in ways.items():
            share = 100 * sum(row["found"]) / len(row["found"])
            right.scatter(row["cpu"], share, marker=markers[film], color=colours[way], s=70, alpha=0.8)
    for way, colour in colours.items():
        right.scatter([], [], color=colour, label=way)
    for film, marker in markers.items():
        right.scatter([], [], marker=marker, color="none", edgecolor="grey", label=film)
    right.set_xscale("log")
    right.set(xlabel="CPU seconds from the file to the chosen frames", ylabel="events of 4 s found, %", ylim=(0, 105))
    right.set_title("Two passes")
    right.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
