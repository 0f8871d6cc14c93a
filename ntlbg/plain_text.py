"""Text from outside (file names, questions, answers) before it reaches a terminal or a page."""

import unicodedata
from html import escape


# They reorder what stands around them: "gpj.exe" can be made to read "exe.jpg".
BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """`text` with what could steer a terminal, break XML or not be encoded shown as U+FFFD.

    These are control characters other than line feed and tab, lone surrogates (names of files that are no UTF-8) and
    bidirectional overrides. Joiners stay: scripts and emoji need them.
    """
    return "".join("\ufffd" if _steers(character) else character for character in text)


def one_line(text: str) -> str:
    """`text` printable and in one line: a file's name may hold line feeds, which would look like lines of ours."""
    return printable(text).replace("\n", "\ufffd").replace("\t", " ")


def shown(text: str) -> str:
    """`text` as it may stand in HTML, XML and their attributes: printable and escaped."""
    return escape(printable(text))


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in BIDI_CONTROLS or unicodedata.category(character) in ("Cc", "Cs")
