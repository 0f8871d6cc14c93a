"""One answer as the page shows it: its text, a timeline whose moments can be clicked, and the contact sheet.

Plain HTML, made where the model is, so that the page's process needs no tensors. Every text from outside is escaped.
Whatever has `data-seconds` moves the player there, see `page.js`.
"""

from __future__ import annotations

from ntlbg.app.model_worker import AnswerView
from ntlbg.plain_text import shown
from ntlbg.report.evidence import Evidence
from ntlbg.report.html_report import ReportQuestion, VideoFacts, contact_figures, key, notes
from ntlbg.report.timeline import timeline_svg
from ntlbg.selection.answers import Answer


def view_of(answer: Answer, video: VideoFacts, looked: float) -> AnswerView:
    """What the page shows of `answer`.

    Args:
        video: of the video it is about.
        looked: seconds that looking at the video took, 0 if it was seen before.
    """
    evidence = Evidence.of(answer.selection)
    pictures = "1 picture" if answer.num_frames == 1 else f"{answer.num_frames} pictures"
    facts = (
        f"from {pictures} at {len(evidence.positions)} moments, of {len(evidence.candidate_seconds)} candidates · "
        + (f"looked for {looked:.1f} s" if looked else "seen before, not looked at again")
        + f" · answered in {sum(answer.timings.values()):.1f} s"
    )
    drawn = timeline_svg(evidence, video.duration, f"Timeline of: {answer.question}", video.clip)
    told = notes(list(dict.fromkeys([*video.warnings, *answer.notes])))
    figures = contact_figures(
        ReportQuestion(answer.question, answer.selection, answer.frames, spoken=answer.spoken), evidence
    )
    return AnswerView(
        answer=f'<div class="answer"><p class="asked">{shown(answer.question)}</p>'
        f'<p class="text">{shown(answer.text) or "<i>(the model said nothing)</i>"}</p>'
        f'<p class="facts">{shown(facts)}</p>{told}</div>',
        timeline='<h3>The moments it rests on <small>click one to see it</small></h3><div class="scroll">'
        f"{_reachable(drawn)}</div>{key(evidence.strata)}",
        sheet=_reachable(figures),
    )


def _reachable(html: str) -> str:
    """With the keyboard, too."""
    return html.replace("data-seconds=", 'tabindex="0" role="button" data-seconds=')
