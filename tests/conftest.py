"""Shared by all tests: the tests' own helpers are importable, and thread counts do not depend on the machine."""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
