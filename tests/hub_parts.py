"""Processes around a loopback Hub: one with the project that pushes, strangers that pull."""

import json
import subprocess
import sys
from pathlib import Path

from loopback_hub import LoopbackHub


TESTS = Path(__file__).parent

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
# Sockets are forbidden before anything else is imported.
WITHOUT_NETWORK = """
import socket
class Forbidden(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("the network is cut off")
socket.socket = Forbidden
"""
ANSWER = """
import torch, transformers
from safetensors.torch import load_file
torch.set_num_threads(1)

def logits(name, **kwargs):
    model = transformers.AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True, **kwargs)
    inputs = load_file(INPUTS)
    with torch.no_grad():
        return model(**inputs, num_representatives=3).logits
"""


def run_alone(code: str, hub: LoopbackHub, home: Path, *, stranger: bool = False, args=(), code_of: int = 0, **more):
    """`code` in a process of its own, in the folder `home`; what it printed last, as JSON, and all it said."""
    home.mkdir(exist_ok=True)
    if stranger:
        code = WITHOUT_PROJECT + code
    else:
        more = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", **more}
    result = subprocess.run(
        [sys.executable, *(["-I"] if stranger else []), "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        env=hub.environment(home / "cache", **more),
        cwd=home,
        check=False,
        timeout=600,
    )
    assert result.returncode == code_of, result.stdout[-2000:] + result.stderr[-4000:]
    lines = result.stdout.splitlines()
    return (json.loads(lines[-1]) if lines and lines[-1].startswith(("{", "[")) else None), result.stderr
