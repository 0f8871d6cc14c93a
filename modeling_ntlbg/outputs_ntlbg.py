"""What the model returns, and what it carries from choosing to answering."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from ntlbg.modeling_ntlbg.base_adapter_ntlbg import VideoFeatures
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection


@dataclass
class NTLBGOutput(ModelOutput):
    r"""
    Args:
        loss (`torch.FloatTensor`, *optional*): L_task + l1 L_NTLBG + l2 L_align + l3 L_context, with the weights of
            the config; evidence, teacher and span are left to a trainer.
        logits (`torch.FloatTensor` of shape `(B, L', vocabulary)`): over the pruned prompt.
        labels (`torch.LongTensor` of shape `(B, L')`, *optional*): the labels of the pruned prompt, where labels came
            in.
        past_key_values (`Cache`, *optional*)
        hidden_states, attentions (`tuple`, *optional*): as the base gives them.
        task_loss, ntlbg_loss, align_loss, context_loss, evidence_loss, teacher_loss, span_loss (`torch.FloatTensor`,
            *optional*): the components, unweighted, each the mean over the videos that have it; `None` where none has:
            L_align needs statistics of earlier steps, L_context two kept groups, the evidence spans, the teacher
            attentions, L_span spans and a span head.
        video_losses (`list[Mapping]`): the same of every video, by name ("ntlbg", "align", ...); what the means are
            taken of, so that a trainer can take them over an accumulated batch.
        selections (`list[Selection]`, *optional*): indices, timestamps, weights and strata of what was kept, and the
            moments that a span head found (not in training), one per video.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    labels: torch.LongTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    task_loss: torch.FloatTensor | None = None
    ntlbg_loss: torch.FloatTensor | None = None
    align_loss: torch.FloatTensor | None = None
    context_loss: torch.FloatTensor | None = None
    evidence_loss: torch.FloatTensor | None = None
    teacher_loss: torch.FloatTensor | None = None
    span_loss: torch.FloatTensor | None = None
    video_losses: list[Mapping] | None = None
    selections: list[Selection] | None = None


@dataclass
class NTLBGGenerateOutput(ModelOutput):
    r"""
    Args:
        sequences (`torch.LongTensor` of shape `(B * return sequences, L + new tokens)`): the caller's own prompt, then
            the answer.
        selections (`list[Selection]`): what the answer was given from, one per video.
        base_output (`ModelOutput`, *optional*): all else the base returned, with `return_dict_in_generate=True`.
    """

    sequences: torch.LongTensor | None = None
    selections: list[Selection] | None = None
    base_output: ModelOutput | None = None


@dataclass
class Choice:
    """One video's selection with what the losses need of it; `relevance` (T,) has its gradient."""

    selection: Selection
    features: VideoFeatures
    relevance: torch.Tensor | None = None
    losses: dict = field(default_factory=dict)


__all__ = ["Choice", "NTLBGGenerateOutput", "NTLBGOutput"]
