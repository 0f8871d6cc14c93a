"""Chosen frames as a message to a vision-language model: each picture after its time, what is said there, and the
question at the end.

One order for every receiver; only the form of a picture differs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image

from ntlbg.selection.subtitles import Cue


JPEG_QUALITY = 90


def frames_message(
    seconds: Sequence[float],
    images: Sequence[Image.Image],
    question: str,
    told: Sequence[Sequence[Cue]] | None,
    picture: Callable[[Image.Image], dict],
) -> list[dict]:
    """One user message of text and picture parts.

    Args:
        seconds: (k,), times of the frames.
        images: (k,), the frames.
        question: the last part.
        told: for each frame what is said around it, or None.
        picture: makes a part of an image.
    """
    content: list[dict] = []
    for number, (second, image) in enumerate(zip(seconds, images, strict=True)):
        content += [{"type": "text", "text": f"[{second:.1f} s]"}, picture(image)]
        if told is not None and told[number]:
            content.append({"type": "text", "text": "Subtitles: " + " ".join(cue.text for cue in told[number])})
    content.append({"type": "text", "text": question})
    return [{"role": "user", "content": content}]


def transcript(told: Sequence[Sequence[Cue]]) -> str:
    """What is said, for a prompt that takes the frames as one video: a line for each cue, after its time; or ""."""
    lines = [f"[{cue.start:.1f} s] {cue.text}" for cues in told for cue in cues]
    return "\n".join(["Subtitles:", *lines]) if lines else ""


def image_part(image: Image.Image) -> dict:
    """A picture for a chat template of transformers."""
    return {"type": "image", "image": image}


def image_url_part(image: Image.Image) -> dict:
    """A picture for a server that speaks OpenAI's protocol: a data URL of JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": url}}
