"""The error of everything that a caller can put right, and how to quote one; cheap to import."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """What was asked for cannot be done; the message is one sentence: what is wrong, what came, how to fix it."""


def first_sentence(error: Exception) -> str:
    """What an error of a library says first; they go on for paragraphs."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".:")


@contextlib.contextmanager
def as_input_errors() -> Iterator[None]:
    """For calls whose `ValueError` is a sentence to the user."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error


def error_line(error: InputError) -> str:
    """Its sentence in one line; one that comes from a worker process brings a traceback along, and stands last."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.rsplit("\n", 1)[-1].split(": ", 1)[-1]
    return " ".join(text.split())
