"""The lower bounds of setup.cfg as pins, for an environment that is as old as it may be (`make test-lowest`).

python tests/lowest.py > lowest.txt
"""

import configparser
import re
from pathlib import Path


# Each needs a machine, a compiler or an environment of its own.
LEFT_OUT = {"deepspeed", "decord", "flash-attn", "lmms-eval", "playwright", "pre-commit", "torchcodec"}


def pins(setup: Path) -> list[str]:
    """`name==lowest` of everything that is required or an extra, without `LEFT_OUT`; the highest of several bounds."""
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    lowest: dict[str, tuple[int, ...]] = {}
    for line in filter(None, lines):
        found = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", line)
        if found is None:
            raise ValueError(f"{setup}: every requirement has a lower bound, got {line!r}")
        name, bound = found[1], tuple(map(int, found[2].split(".")))
        lowest[name] = max(lowest.get(name, (0,)), bound)
    return [f"{name}=={'.'.join(map(str, lowest[name]))}" for name in sorted(lowest) if name not in LEFT_OUT]


if __name__ == "__main__":
    print("\n".join(pins(Path(__file__).parents[1] / "setup.cfg")))
