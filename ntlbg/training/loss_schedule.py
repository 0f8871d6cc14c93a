"""The weights of L = L_task + l1 L_NTLBG + l2 L_align + l3 L_context + l4 L_evidence + l5 L_teacher + l6 L_span over
training.

Pure functions of the step, so that a run taken up again needs no state for them.
"""

SCHEDULES = ("specification", "constant")
LOSSES = ("task", "ntlbg", "align", "context", "evidence", "teacher", "span")


def loss_weights(schedule: str, step: int, max_steps: int) -> dict[str, float]:
    r"""
    l1 = 2 (1 - p), l2 = p, l3 = 1/2 for "specification" (its section 4.2: statistics first, alignment later), 1 each
    for "constant"; the task's, the evidence's, the teacher's and the span's are 1 in both.

    Args:
        schedule (`str`): one of `SCHEDULES`.
        step (`int`): optimizer steps done.
        max_steps (`int`): of the whole run; p = step / max_steps, at most 1.

    Returns:
        `dict[str, float]`: by name of `LOSSES`.

    Raises:
        ValueError: there is no such schedule, or `max_steps` is below 1.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"`loss_schedule` should be one of {', '.join(SCHEDULES)}, but it is {schedule!r}.")
    if max_steps < 1:
        raise ValueError(f"`max_steps` should be at least 1 to tell the training's progress, but it is {max_steps}.")
    weights = dict.fromkeys(LOSSES, 1.0)
    if schedule == "specification":
        progress = min(max(step / max_steps, 0.0), 1.0)
        weights.update(ntlbg=2.0 * (1.0 - progress), align=progress, context=0.5)
    return weights


__all__ = ["LOSSES", "SCHEDULES", "loss_weights"]
