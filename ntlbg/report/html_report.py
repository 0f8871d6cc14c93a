"""One self-contained page: the questions, the answers, and the frames they rest on; and the same as JSON beside it."""

from __future__ import annotations

import base64
import io
import json
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ntlbg.plain_text import shown
from ntlbg.report.evidence import WHY, Evidence
from ntlbg.report.timeline import drawn_marks, shape, timeline_svg
from ntlbg.selection.features import FrameSelection
from ntlbg.selection.subtitles import Cue
from ntlbg.tables import clock


if TYPE_CHECKING:
    from ntlbg.modeling_ntlbg.selection_ntlbg import Selection


THUMBNAIL = 320
JPEG_QUALITY = 80


@dataclass(frozen=True)
class VideoFacts:
    """What the page says of the video itself; times in seconds, sizes in pixels of the source, `clip` the seconds
    (start, end) that were looked at if not all."""

    name: str
    duration: float
    fps: float
    total_num_frames: int
    width: int
    height: int
    warnings: list[str] = field(default_factory=list)
    clip: tuple[float, float] | None = None

    @property
    def looked_at(self) -> tuple[float, float]:
        """Start and end, in seconds, of what was looked at."""
        return self.clip or (0.0, self.duration)

    @classmethod
    def of(cls, source) -> VideoFacts:
        """From whatever carries these facts: `CandidateFrames`, `CandidateFeatures` or `FrameSelection`."""
        return cls(
            name=source.name,
            duration=float(source.duration),
            fps=float(source.fps),
            total_num_frames=int(source.total_num_frames),
            width=int(source.width),
            height=int(source.height),
            warnings=list(source.warnings),
            clip=source.clip,
        )


@dataclass(frozen=True)
class ReportQuestion:
    """One question's part of a report.

    Args:
        question: what was asked; None when frames were chosen without a question.
        selection: the frames (`FrameSelection`) or groups (`Selection`) that were chosen.
        frames: one picture per representative, uint8 (H, W, 3); those of a `FrameSelection` if None.
        answer: the model's answer, if one was asked for.
        truth: the known right answer, if there is one.
        correct: whether the answer is right; if None and both are known, equal texts (without case, outer spaces and a
            final full stop) count as right.
        timings: seconds per stage, in order.
        spoken: what is said at each representative, if there are subtitles.
        moments: (start, end, confidence) of the spans that were found, for the timeline.
    """

    question: str | None
    selection: FrameSelection | Selection
    frames: Sequence[np.ndarray] | np.ndarray | None = None
    answer: str | None = None
    truth: str | None = None
    correct: bool | None = None
    timings: dict[str, float] = field(default_factory=dict)
    spoken: Sequence[Sequence[Cue]] | None = None
    moments: Sequence[tuple[float, float, float]] = ()

    @property
    def verdict(self) -> bool | None:
        """Right, wrong, or None if that is not known."""
        if self.correct is not None or self.truth is None or self.answer is None:
            return self.correct
        return _plain(self.answer) == _plain(self.truth)


def write_report(
    path: str | Path,
    *,
    video: VideoFacts,
    questions: Sequence[ReportQuestion],
    command: str | None = None,
) -> tuple[Path, Path]:
    """Write the report as one HTML file that loads nothing from elsewhere, and its figures as JSON beside it.

    Every text (names, questions, answers, notes) is escaped, and the page forbids scripts and outside sources.

    Args:
        path: where the page goes; its suffix must be .html or .htm.
        video: what the page says of the video.
        questions: at least one.
        command: how the report was made; shown at the foot.

    Returns:
        the paths of the page and of the JSON.

    Raises:
        ValueError: another suffix, no questions, or pictures that do not match their selection.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a report is an HTML file, got {path.name!r}; give a name that ends in .html")
    if not questions:
        raise ValueError("a report needs at least one question, got none")
    evidence = [Evidence.of(question.selection) for question in questions]
    title = f"{video.name}: the frames that stand for it"
    template = string.Template(files("ntlbg.report").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=shown(title),
        facts=_facts(video, evidence[0]),
        warnings=notes(video.warnings),
        sections="\n".join(
            _section(number, question, chosen, video)
            for number, (question, chosen) in enumerate(zip(questions, evidence, strict=True), start=1)
        ),
        footer="Made by NTLBG-LLM." + ("" if command is None else f" <code>{shown(command)}</code>"),
    )
    path.write_text(page, encoding="utf-8")
    figures = path.with_suffix(".json")
    figures.write_text(json.dumps(report_dict(video, questions, command), indent=1), encoding="utf-8")
    return path, figures


def report_dict(video: VideoFacts, questions: Sequence[ReportQuestion], command: str | None = None) -> dict:
    """What the page shows, without the pictures, ready for JSON."""
    return {
        "video": asdict(video),
        "command": command,
        "questions": [
            {
                "question": question.question,
                "answer": question.answer,
                "truth": question.truth,
                "correct": question.verdict,
                "timings": dict(question.timings),
                "selection": Evidence.of(question.selection).to_dict(*reversed(video.looked_at)),
                "spoken": None if question.spoken is None else [[asdict(cue) for cue in c] for c in question.spoken],
            }
            for question in questions
        ],
    }


def data_uri(frame: np.ndarray, side: int = THUMBNAIL) -> str:
    """A frame, uint8 (H, W, 3), as a JPEG data URI at most `side` pixels wide and high."""
    picture = Image.fromarray(frame)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _facts(video: VideoFacts, evidence: Evidence) -> str:
    clip = "" if video.clip is None else " · only {} to {} looked at".format(*(clock(s, True) for s in video.clip))
    return shown(
        f"{clock(video.duration, tenths=True)} long{clip} · {video.width}×{video.height} · "
        f"{video.fps:.4g} pictures a second, {video.total_num_frames} in all · "
        f"{len(evidence.candidate_seconds)} candidate {evidence.unit}s"
    )


def notes(sentences: Sequence[str]) -> str:
    """Sentences as a list, or nothing."""
    if not sentences:
        return ""
    return '<ul class="notes">' + "".join(f"<li>{shown(sentence)}</li>" for sentence in sentences) + "</ul>"


def _section(number: int, question: ReportQuestion, evidence: Evidence, video: VideoFacts) -> str:
    heading = question.question if question.question is not None else "The video as a whole (nothing was asked)"
    parts = [f'<section id="q{number}">', f"<h2>{shown(heading)}</h2>"]
    if question.answer is not None:
        parts.append(f'<p class="answer">{shown(question.answer)}</p>')
    if question.truth is not None:
        verdict = {True: '<span class="right">✓ right</span>', False: '<span class="wrong">✗ wrong</span>', None: ""}
        parts.append(f'<p class="verdict">{verdict[question.verdict]} The truth: {shown(question.truth)}</p>')
    elif question.verdict is not None:
        word = "right" if question.verdict else "wrong"
        parts.append(f'<p class="verdict"><span class="{word}">{"✓" if question.verdict else "✗"} {word}</span></p>')
    # The video's own warnings stand at the top of the page already.
    parts.append(notes([note for note in evidence.notes if note not in video.warnings]))
    drawn = timeline_svg(evidence, video.duration, f"Timeline of: {heading}", video.clip, question.moments)
    parts.append(f'<div class="scroll">{drawn}</div>')
    parts.append(key(evidence.strata))
    parts.append(f"<h3>{len(evidence.positions)} representative {evidence.unit}s</h3>")
    sheet = contact_figures(question, evidence)
    table = _table(evidence, video)
    # Pictures say most of it; the figures of each are one click away.
    parts.append(f"{sheet}<details><summary>Their figures</summary>{table}</details>" if sheet else table)
    if question.timings:
        parts.append("<h3>Where the time went</h3>")
        parts.append(_timings(question.timings))
    parts.append("</section>")
    return "\n".join(part for part in parts if part)


def key(strata: Sequence[str]) -> str:
    """What the marks of a timeline mean."""
    items = "".join(f"<li>{_icon(stratum)}{stratum}: {WHY[stratum]}</li>" for stratum in drawn_marks(strata))
    return f'<ul class="key">{items}<li>band: context window, the denser the heavier</li></ul>'


def _icon(stratum: str) -> str:
    return f'<svg class="tl" viewBox="0 0 14 14" aria-hidden="true">{shape(stratum, 7, 7, 5)}</svg>'


def contact_figures(question: ReportQuestion, evidence: Evidence) -> str:
    """The contact sheet: each representative's picture over its number, time, stratum and weight."""
    frames = question.frames
    if frames is None and isinstance(question.selection, FrameSelection):
        frames = question.selection.frames
    if frames is None:
        return ""
    if len(frames) != len(evidence.positions):
        raise ValueError(
            f"each representative needs its picture: got {len(frames)} pictures for {len(evidence.positions)} "
            f"{evidence.unit}s"
        )
    figures = []
    spoken = question.spoken or [[]] * len(frames)
    for rank, frame in enumerate(frames):
        said = " ".join(cue.text for cue in spoken[rank])
        moment, stratum = clock(float(evidence.seconds[rank]), tenths=True), evidence.strata[rank]
        figures.append(
            f'<figure data-seconds="{float(evidence.seconds[rank]):.3f}">'
            f'<img alt="{shown(f"The picture at {moment}")}" src="{data_uri(frame)}">'
            f"<figcaption>{_icon(stratum)}<b>{rank + 1}</b> {moment} · {shown(stratum)} · "
            f"{float(evidence.weights[rank]):.1%}{f'<q>{shown(said)}</q>' if said else ''}</figcaption></figure>"
        )
    return f'<div class="sheet">{"".join(figures)}</div>'


def _table(evidence: Evidence, video: VideoFacts) -> str:
    head = ["#", "Time", "Stratum", "Weight", "Context window"]
    head += [] if evidence.picture_numbers is None else ["Picture no."]
    rows = []
    for rank, (second, stratum, weight) in enumerate(
        zip(evidence.seconds, evidence.strata, evidence.weights, strict=True)
    ):
        start, stop, more = evidence.own_window(rank, *reversed(video.looked_at))
        window = f"{clock(start, tenths=True)} – {clock(stop, tenths=True)}" + (f" and {more} more" if more else "")
        moment = clock(float(second), tenths=True)
        number = ""
        if evidence.picture_numbers is not None:
            number = f'<td data-name="picture no.">{int(evidence.picture_numbers[rank])}</td>'
        rows.append(
            f'<tr><td data-name="#">{rank + 1}</td><td data-name="time">{moment}</td>'
            f'<td data-name="">{_icon(stratum)}{shown(stratum)}</td><td data-name="weight">{float(weight):.1%}</td>'
            f'<td data-name="window">{window}</td>'
            f"{number}</tr>"
        )
    return (
        '<table class="evidence"><thead><tr>'
        + "".join(f"<th>{name}</th>" for name in head)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _timings(timings: dict[str, float]) -> str:
    longest = max(max(timings.values()), 1e-9)
    rows = "".join(
        f"<tr><td>{shown(stage)}</td><td>{seconds:.2f} s</td>"
        f'<td><span class="bar" style="width:{100 * max(seconds, 0) / longest:.1f}%"></span></td></tr>'
        for stage, seconds in timings.items()
    )
    rows += f"<tr><td>together</td><td>{sum(timings.values()):.2f} s</td><td></td></tr>"
    return f'<table class="timings"><tbody>{rows}</tbody></table>'


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").strip().casefold()
