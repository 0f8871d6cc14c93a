"""Processes around a loopback Hub: with the project, or as a stranger to it."""

import json
import subprocess
import sys
from pathlib import Path

from loopback_hub import LoopbackHub


TESTS = Path(__file__).parent

RESULT = "RESULT "

# What a stranger's process begins with: the project's import finder is taken away, and that is checked.
WITHOUT_PROJECT = """
import json, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "ntlbg" not in repr(finder)]
sys.path[:] = [path for path in sys.path if "__editable__" not in path]
try:
    import ntlbg
except ImportError:
    pass
else:
    raise SystemExit("the project is importable here, so this would prove nothing")
"""
# Before anything else is imported.
WITHOUT_NETWORK = """
import socket
def forbidden(*args, **kwargs):
    raise RuntimeError("a socket was opened, although the network is cut off")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = forbidden
"""
# How far the logits of a model are from those it was pushed with; in the folder where it was pushed.
DISTANCE = """
import torch, transformers
from safetensors.torch import load_file
torch.set_num_threads(1)
TRUST = {"trust_remote_code": True}
inputs, expected = load_file("inputs.safetensors"), load_file("expected.safetensors")

def distance(model, which="second"):
    with torch.no_grad():
        return float((model(**inputs, num_representatives=3).logits - expected[which]).abs().max())

def pulled(name, which="second", **kwargs):
    return distance(transformers.AutoModelForImageTextToText.from_pretrained(name, **TRUST, **kwargs), which)
"""


def run_alone(
    code: str, hub: LoopbackHub, place: Path, *, stranger: bool = False, cache: str = "cache", **environment
) -> tuple[dict, str]:
    """`code` in a process of its own, in the folder `place`; the JSON it printed behind `RESULT`, and its errors."""
    if stranger:
        command = [sys.executable, "-I", "-c", WITHOUT_PROJECT + code]
    else:
        command = [sys.executable, "-c", code]
        environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", **environment}
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=hub.environment(place / cache, **environment),
        cwd=place,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    # Libraries print what they like, and questions without a line break.
    _, mark, found = result.stdout.rpartition(RESULT)
    assert mark, result.stdout[-2000:]
    return json.loads(found.splitlines()[0]), result.stderr
