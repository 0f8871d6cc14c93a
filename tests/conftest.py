"""Shared by all tests: the tests' own helpers are importable, and thread counts do not depend on the machine."""

import sys
from pathlib import Path

import pytest
import torch


sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory):
    """The command keeps features by default: of the tests' videos not among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTLBG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
