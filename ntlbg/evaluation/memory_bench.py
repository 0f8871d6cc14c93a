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

from ntlbg.evaluation.bench_page import current_commit
from ntlbg.evaluation.memory_cases import CASES, HELD_OUT
from ntlbg.evaluation.memory_run import STEPS, base_config
from ntlbg.training.memory import FRAMEWORK_BYTES, Estimate, Job, estimate_memory
from ntlbg.training.model_shapes import shape_of_config


MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WITHIN = 0.15
COMMAND = "python -m ntlbg.evaluation.memory_bench --out docs/benchmarks/memory"


def estimate_of(case: dict) -> Estimate:
    """What the estimator says of a case."""
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


def _table(cases: list[dict], results: dict[str, dict]) -> list[str]:
    rows = []
    for case in cases:
        estimate, measured = estimate_of(case), results[case["name"]]["measured"]
        rows.append(
            f"| {case['name']} | {case['family']} "
            f"| {estimate.parameters / 1e6:.0f} M | {estimate.trained / 1e6:.0f} M "
            f"| {estimate.peak / 1e6:.0f} | {measured / 1e6:.0f} | {estimate.peak / measured:.3f} "
            f"| {estimate.peak_moment} |"
        )
    return [
        "| configuration | family | parameters | trained | estimated, MB | measured, MB | ratio | peak at |",
        "|---|---|---:|---:|---:|---:|---:|---|",
        *rows,
    ]


def write_report(out: Path, content: dict) -> None:
    """The page and the picture of what has been measured."""
    from ntlbg.report.memory_plot import draw_memory

    results = content["results"]
    corrected, held_out = ([case for case in cases if case["name"] in results] for cases in (CASES, HELD_OUT))
    done = corrected + held_out
    estimates = [estimate_of(case) for case in done]
    sizes = [results[case["name"]]["measured"] for case in done]
    errors = [estimate.peak / size - 1 for estimate, size in zip(estimates, sizes, strict=True)]
    low, high = min(sizes) / 1e6, max(sizes) / 1e6
    within = sum(abs(error) <= WITHIN for error in errors)
    settings = ", ".join(f"`{name}={value}`" for name, value in MALLOC.items())
    page = f"""# Training memory: estimated and measured

{within} of {len(errors)} configurations are within {WITHIN:.0%}. Measured peaks go from {low:.0f} to {high:.0f} MB,
{high / low:.0f} to 1; the estimates lie {min(errors):+.1%} to {max(errors):+.1%} from them.

![Estimated parts and measured peaks](memory.png)

## What the formulas were corrected on

{chr(10).join(_table(corrected, results))}

## Measured when the formulas were settled

{chr(10).join(_table(held_out, results))}

## How

Random-weight models of the real classes take {STEPS} real optimizer steps (forward, backward and AdamW) in float32 on
one thread, each in a process of its own. Measured is the kernel's high-water mark of the process's resident memory
(VmHWM), which misses no moment, less what was resident when the libraries had been imported; the mark is reset when
model and inputs are there. Resident memory and not the allocator's own count, because it has what kernels lay out for
themselves, too, and is what a machine runs out of. glibc keeps freed blocks for later, as many as the order of sizes
makes it; here it gives them back at once ({settings}),
so that what is measured are tensors. A process without these settings may hold more.

No formula has a factor fitted to a case. Every estimate has {FRAMEWORK_BYTES["cpu"] / 1e6:.0f} MB for what the first
step of any model brings with it, taken from a model of one layer of width 32. MB are 10^6 bytes; the ratio is
estimated by measured. Not measured here: GPUs, 16 bits, DeepSpeed, 4-bit weights.

Formulas: `ntlbg/training/memory.py`.
Commit {content["commit"]}, {content["machine"]}, `{content["command"]}` (`make bench-memory`).
"""
    out.with_suffix(".md").write_text(page, encoding="utf-8")
    named = [(case["name"], estimate) for case, estimate in zip(done, estimates, strict=True)]
    draw_memory(str(out.with_suffix(".png")), named, measured=sizes)


def _write(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv=None) -> None:
    """Measure what has not been, write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/benchmarks/memory", help="names of the JSON, page and picture")
    parser.add_argument("--anew", action="store_true", help="measure all again")
    parser.add_argument("--only", nargs="*", help="measure these configurations alone")
    parser.add_argument("--report", action="store_true", help="measure nothing, write page and picture")
    args = parser.parse_args(argv)
    file = Path(args.out).with_suffix(".json")
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() and not args.anew else {}
    content.setdefault("results", {})
    content["commit"] = current_commit()
    if not args.report:
        machine = f"{platform.machine()} CPU, 1 thread, Python {platform.python_version()}"
        content |= {"machine": machine, "command": COMMAND, "malloc": MALLOC}
    for case in [] if args.report else CASES + HELD_OUT:
        known = content["results"].get(case["name"], {}).get("case") == case
        if known or (args.only and case["name"] not in args.only):
            continue
        result = measure(case)
        content["results"][case["name"]] = {**result, "case": case}
        ratio = estimate_of(case).peak / result["measured"]
        print(f"{case['name']}: {result['measured'] / 1e6:.0f} MB, estimated by measured {ratio:.3f}", flush=True)
        _write(file, content)
    _write(file, content)
    write_report(Path(args.out), content)


if __name__ == "__main__":
    main()
