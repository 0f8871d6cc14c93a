"""How many answer tokens and videos of a batch will have each loss, told from the inputs before the model runs: what
an accumulated batch has to be divided by.

Shapes: B rows, L prompt tokens, V videos, T groups of a video, k kept.
"""

from ntlbg.training.loss_schedule import LOSSES


def count_losses(model, batch: dict, *, teacher: bool) -> dict[str, int]:
    r"""
    Args:
        model (`NTLBGForConditionalGeneration`): as it is now; L_align needs statistics of earlier steps.
        batch (`dict`): what the collator makes.
        teacher (`bool`): whether the model will be asked for its attentions.

    Returns:
        `dict[str, int]`: by name of `LOSSES`; "task" counts answer tokens, the others count videos.
    """
    counts = dict.fromkeys(LOSSES, 0)
    labels = batch.get("labels")
    if labels is not None:
        counts["task"] = int((labels[:, 1:] != -100).sum())
    grids = batch.get("video_grid_thw")
    chosen_before = batch.get("selection") is not None or batch.get("kept_group_indices") is not None
    if grids is None or chosen_before:
        return counts
    input_ids = batch["input_ids"]
    slots = model.adapter.find_videos(input_ids, batch.get("attention_mask"), batch.get("mm_token_type_ids"), grids)
    asked = _asked_rows(batch, len(input_ids))
    evidence = batch.get("group_evidence")
    known = [False] * len(grids)
    if evidence is not None:
        known = [not bool(part.isnan().all()) for part in evidence.split(grids[:, 0].tolist())]
    for number, slot in enumerate(slots):
        k = model.representatives_for(grids[number], batch.get("num_representatives"), batch.get("max_visual_tokens"))
        relevance = asked[slot.row] and model.config.selector_trained
        counts["ntlbg"] += 1
        counts["align"] += model.statistics_seen
        counts["context"] += k > 1
        counts["evidence"] += relevance and known[number]
        counts["span"] += model.span_head is not None and asked[slot.row] and known[number]
        answered = labels is not None and bool((labels[slot.row, 1:] != -100).any())
        counts["teacher"] += teacher and relevance and k > 1 and answered
    return counts


def _asked_rows(batch: dict, rows: int) -> list[bool]:
    query = batch.get("query_input_ids")
    if query is None:
        return [False] * rows
    mask = batch.get("query_attention_mask")
    return [True] * rows if mask is None else mask.bool().any(dim=1).tolist()


__all__ = ["count_losses"]
