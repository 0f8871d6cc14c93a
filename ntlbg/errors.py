"""The error of everything that a caller can put right, and how to quote one; cheap to import."""


class InputError(ValueError):
    """What was asked for cannot be done; the message is one sentence: what is wrong, what came, how to fix it."""


def first_sentence(error: Exception) -> str:
    """What an error of a library says first; they go on for paragraphs."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".:")
