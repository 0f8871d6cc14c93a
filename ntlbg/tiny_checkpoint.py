"""Where the embedded checkpoint is: in the repository, not in the wheel."""

from pathlib import Path

from ntlbg.errors import InputError


TINY = Path(__file__).resolve().parents[1] / "checkpoints" / "ntlbg-tiny"


def check_tiny() -> None:
    """Raises:
    InputError: it is not there, because the package was installed without its repository.
    """
    if not (TINY / "config.json").is_file():
        raise InputError(
            f"the embedded checkpoint is not there ({str(TINY)!r}): it is part of the repository and the sdist, not "
            "of the wheel; run this in a checkout, or give another model with --model"
        )
