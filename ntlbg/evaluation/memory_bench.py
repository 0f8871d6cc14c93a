"""Estimated against measured training memory: `python -m ntlbg.evaluation.memory_bench --out docs/benchmarks/memory`.

Each configuration is trained in a process of its own (`memory_run`). The JSON is written after each one, and one that
is in it already is not measured again. glibc is told to give freed blocks back at once (MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_) from one arena, so that what is measured are tensors and not the holes between them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from ntlbg.evaluation.memory_cases import CASES
from ntlbg.training.memory import Estimate, Job, estimate_memory
from ntlbg.training.model_shapes import shape_of_config


MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WITHIN = 0.15


def estimate_of(case: dict) -> Estimate:
    """What the estimator says of a case."""
    from ntlbg.evaluation.memory_run import base_config

    return estimate_memory(shape_of_config(base_config(case)), Job(**case["job"]))


def measure(case: dict) -> dict:
    """What `memory_run` measures of a case, in a process of its own.

    Raises:
        RuntimeError: the process failed; its last line says why.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(case, file)
        file.flush()
        ended = subprocess.run(
            [sys.executable, "-m", "ntlbg.evaluation.memory_run", file.name],
            env={**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if ended.returncode:
        raise RuntimeError(f"{case['name']}: {(ended.stderr.strip().splitlines() or ['killed'])[-1]}")
    return json.loads(ended.stdout.splitlines()[-1])


def write_report(out: Path, results: dict[str, dict]) -> None:
    """The page and the picture of what has been measured."""
    from ntlbg.report.memory_plot import draw_memory

    cases = {case["name"]: case for case in CASES if case["name"] in results}
    estimates = {name: estimate_of(case) for name, case in cases.items()}
    rows = []
    for name, estimate in estimates.items():
        measured = results[name]["measured"]
        rows.append(
            f"| {name} | {cases[name]['family']} | {estimate.parameters / 1e6:.0f} M | {estimate.trained / 1e6:.0f} M "
            f"| {estimate.peak / 1e6:.0f} | {measured / 1e6:.0f} | {estimate.peak / measured - 1:+.1%} "
            f"| {estimate.peak_moment} |"
        )
    errors = [estimate.peak / results[name]["measured"] - 1 for name, estimate in estimates.items()]
    sizes = [results[name]["measured"] for name in estimates]
    page = [
        "# Training memory: estimated and measured",
        "",
        "Random-weight models of the real classes, real steps (forward, backward, AdamW), float32, one thread, each",
        "in a process of its own. Measured is the high-water mark of resident memory (VmHWM) after the second",
        "update, less what was resident after the imports and one step of a tiny model. Environment: "
        + ", ".join(f"{name}={value}" for name, value in MALLOC.items())
        + ".",
        "Sizes in MB (10^6 bytes). No factor of the estimator is fitted to a case.",
        "",
        "| configuration | family | parameters | trained | estimated | measured | difference | peak at |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"{sum(abs(error) <= WITHIN for error in errors)} of {len(errors)} within {WITHIN:.0%}; "
        f"measured sizes span {max(sizes) / min(sizes):.0f} to 1.",
        "",
        "![Estimated parts and measured peaks](memory.png)",
        "",
        "Formulas: `ntlbg/training/memory.py`; made by `make bench-memory`. Not measured: GPUs, 16 bits, DeepSpeed.",
    ]
    out.with_suffix(".md").write_text("\n".join(page) + "\n", encoding="utf-8")
    draw_memory(str(out.with_suffix(".png")), list(estimates.items()), measured=sizes)


def main(argv=None) -> None:
    """Measure what has not been, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/benchmarks/memory", help="names of the JSON, page and picture")
    parser.add_argument("--anew", action="store_true", help="measure all again")
    parser.add_argument("--report", action="store_true", help="measure nothing, write page and picture")
    args = parser.parse_args(argv)
    out = Path(args.out)
    file = out.with_suffix(".json")
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() and not args.anew else {}
    results = content.get("results", {})
    for case in [] if args.report else CASES:
        if results.get(case["name"], {}).get("case") == case:
            continue
        results[case["name"]] = {**measure(case), "case": case}
        print(case["name"], f"{results[case['name']]['measured'] / 1e6:.0f} MB", flush=True)
        content = {"machine": platform.machine(), "malloc": MALLOC, "results": results}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_report(out, results)


if __name__ == "__main__":
    main()
