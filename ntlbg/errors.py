"""The error of everything that a caller can put right; cheap to import."""


class InputError(ValueError):
    """What was asked for cannot be done; the message is one sentence: what is wrong, what came, how to fix it."""
