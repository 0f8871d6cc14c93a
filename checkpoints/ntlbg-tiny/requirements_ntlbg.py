"""The version of this code, and what it needs of transformers.

Every module that an auto class begins with imports this one before all else: an older transformers lacks names that
are imported there, and a reader of "cannot import name ..." would not know that it is the reason.
"""

import re

import transformers


# As in setup.cfg; a checkpoint's copy of this code has no package to ask.
VERSION = "0.1.0"
# The first whose models take pre-encoded features (`mm_encoder_outputs`) through `generate()`.
LEAST_TRANSFORMERS = (5, 23)


class TransformersTooOldError(ImportError):
    """The installed transformers is older than this code needs; one sentence."""


def check_transformers(version: str) -> None:
    r"""
    Args:
        version (`str`): of transformers, such as "5.23.0" or "5.24.0.dev0".

    Raises:
        TransformersTooOldError: it is too old.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < LEAST_TRANSFORMERS:
        least = ".".join(map(str, LEAST_TRANSFORMERS))
        raise TransformersTooOldError(
            f"ntlbg {VERSION}, the code of this model, needs transformers {least} or newer, but {version} is "
            f"installed; run: pip install --upgrade 'transformers>={least}'"
        )


check_transformers(transformers.__version__)


__all__ = ["LEAST_TRANSFORMERS", "VERSION", "TransformersTooOldError", "check_transformers"]
