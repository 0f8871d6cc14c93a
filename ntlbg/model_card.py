"""The card of a model: one template, metadata for the Hub, and what was measured, or that nothing was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ntlbg.errors import InputError, first_sentence


CARD_NAME = "README.md"
UNMEASURED = "Nothing has been measured with these weights.\n"
PIPELINE_TAG = "video-text-to-text"
_TAGS = ("ntlbg", "long-video", "frame-selection")

_TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

{{ what }}

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{{ place }}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{{ place }}", trust_remote_code=True)
content = [{"type": "video", "path": "video.mp4"}, {"type": "text", "text": "What colour was the star?"}]
inputs = processor([{"role": "user", "content": content}])
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
{% for title, text in sections.items() %}
## {{ title }}

{{ text }}{% endfor %}
"""


@dataclass(frozen=True)
class Measured:
    """
    What was measured with a model.

    Args:
        text: Markdown that ends with how it was measured.
        results: the same for the Hub's model-index.
    """

    text: str
    results: list[EvalResult] = field(default_factory=list)


def model_card(
    title: str,
    *,
    what: str,
    sections: dict[str, str] | None = None,
    measured: Measured | None = None,
    place: str | None = None,
    base_model: str | None = None,
    base_relation: str = "finetune",
    datasets: Sequence[str] = (),
    tags: Sequence[str] = (),
    licence: str | None = None,
) -> ModelCard:
    r"""
    A card with the Hub's metadata. Without `measured` it says so, and has no model-index.

    Args:
        title: name of the model.
        what: a paragraph: what it is.
        sections: title -> Markdown, between the example and what was measured.
        measured: figures of these weights.
        place: Hub name or folder for the example; `title` by default.
        base_model: of which this one is made, a Hub name; a folder is left out, as it means nothing to a reader.
        base_relation: "finetune", or "adapter" where the base's weights are not in it.
        datasets: what it was trained on; folders and files are left out of the metadata.
        tags: beside those that every model of ours has.
        licence: of the weights, as the Hub abbreviates it.
    """
    if base_model is not None and not is_hub_name(base_model):
        base_model = None
    public = [name for name in datasets if is_hub_name(name)]
    results = [] if measured is None else measured.results
    data = ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        base_model=base_model,
        base_model_relation=None if base_model is None else base_relation,
        datasets=public or None,
        tags=sorted({*_TAGS, *tags}),
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    sections = {**(sections or {}), "What was measured": UNMEASURED if measured is None else measured.text}
    # One line break at the end of each, whatever came.
    sections = {name: text.strip() + "\n" for name, text in sections.items()}
    return ModelCard.from_template(
        data, template_str=_TEMPLATE, title=title, what=what.strip(), place=place or title, sections=sections
    )


def is_hub_name(name: str) -> bool:
    """Whether this may be a name on the Hub: OWNER/NAME, and no folder or file; not one that is gone either, of which
    the folder around it is left."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).parent.exists()


def read_figures(path: str | Path) -> Measured:
    r"""
    Figures of a file: JSON of `ntlbg.evaluation.frames_benchmark`, or the `summary.json` of a run.

    Raises:
        InputError: it cannot be read, is neither, or is incomplete.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the figures {str(path)!r} cannot be read ({first_sentence(error)}); give a JSON file"
        ) from error
    try:
        if isinstance(content, dict) and {"selectors", "kinds", "groups", "command"} <= content.keys():
            return measured_on_world(content)
        if isinstance(content, dict) and {"stage", "steps", "scores"} <= content.keys():
            return measured_by_run(content)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the figures {str(path)!r} are incomplete, or not of the types that they should be "
            f"({type(error).__name__}: {first_sentence(error)}); give the file as it was written"
        ) from error
    raise InputError(
        f"the figures {str(path)!r} are of no kind that is known; give the JSON of `python -m "
        "ntlbg.evaluation.frames_benchmark`, or a run's summary.json"
    )


def measured_on_world(result: dict) -> Measured:
    """Figures of `ntlbg.evaluation.frames_benchmark`, of our selector alone in the model-index."""
    from ntlbg.evaluation.frames_report import REFERENCE, to_summary
    from ntlbg.selection.choosing import OURS

    ours = result["selectors"][OURS][str(REFERENCE)]
    results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type="procedural-world",
            dataset_name="Videos of the procedural world",
            dataset_config=kind,
            dataset_split=result["split"],
            dataset_args={"asked": asked, "k": REFERENCE, "wording": "heldout"},
            metric_type="exact_match",
            metric_name=f"exact match in percent, {kind}",
            metric_value=ours["accuracy"][kind],
        )
        for kind, asked in result["kinds"].items()
    ]
    return Measured(to_summary(result), results)


def measured_by_run(summary: dict) -> Measured | None:
    """The last evaluation of a run of train.py, as a table; None where it had none. Its summary does not name the data
    that a model-index would need."""
    if not summary["scores"]:
        return None
    how = f"By the run itself at its end: stage `{summary['stage']}`, {summary['steps']} optimizer steps."
    return Measured("\n".join([*table(summary["scores"]), "", how]))


def table(scores: dict[str, float]) -> list[str]:
    """Names and values as the lines of a table."""
    rows = [f"| {name.replace('_', ' ')} | {value:.6g} |" for name, value in scores.items()]
    return ["| | |", "|---|---|", *rows]


__all__ = [
    "CARD_NAME",
    "Measured",
    "is_hub_name",
    "measured_by_run",
    "measured_on_world",
    "model_card",
    "read_figures",
]
