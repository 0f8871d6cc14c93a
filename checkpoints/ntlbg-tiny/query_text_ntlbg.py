"""The bare question of a prompt: what the selector is asked, without template tokens, pictures or earlier turns."""

import re


_USER_TURN = re.compile(r"<\|im_start\|>user[ \n](.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")


def is_conversation(value) -> bool:
    """Whether `value` is a list of chat messages (dictionaries with a role) and not a prompt."""
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], dict) and "role" in value[0]


def query_of_messages(messages: list[dict]) -> str:
    """The text parts of the last user turn, one per line; "" where there is none."""
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        content = message.get("content") or ""
        if isinstance(content, str):
            return content.strip()
        parts = [part["text"].strip() for part in content if part.get("type") == "text"]
        return "\n".join(part for part in parts if part)
    return ""


def query_of_prompt(prompt: str, markers: tuple[str, ...] = ()) -> str:
    """The text of the last ChatML user turn of `prompt` (the whole prompt where it has no turns), without special
    tokens and picture markers, of which `markers` do not look like special tokens."""
    turns = _USER_TURN.findall(prompt)
    text = turns[-1] if turns else prompt
    for marker in markers:
        text = text.replace(marker, " ")
    return " ".join(_SPECIAL_TOKEN.sub(" ", text).split(" ")).strip()
