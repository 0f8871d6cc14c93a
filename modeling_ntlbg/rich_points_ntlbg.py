"""Rich representative points R_i = [r_i ; c_i ; w_i ; t_i] and how they enter the language model (specification 1.4,
3.2).

Shapes: T groups, k representatives, n visual tokens per group, D their width, d descriptor width, c `context_size`, W
`context_window`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from ntlbg.modeling_ntlbg.selector_ntlbg import FullPrecisionModule


def context_windows(descriptors: torch.Tensor, indices: torch.Tensor, width: int) -> torch.Tensor:
    """The `width` descriptors around each representative, edges repeated: (T, d), (k,) -> (k, width, d)."""
    offsets = torch.arange(width, device=indices.device) - width // 2
    return descriptors[(indices[:, None] + offsets).clamp(0, len(descriptors) - 1)]


def soft_cell_pool(descriptors, cells, distances, k: int, temperature: float = 1.0) -> torch.Tensor:
    r"""
    p_i = sum over t in cell i of softmax_t(-m_t / temperature) f_t: differentiable where the hard choice is not.

    Args:
        descriptors (`torch.FloatTensor` of shape `(T, d)`)
        cells (`torch.LongTensor` of shape `(T,)`): position 0..k-1 of each group's representative.
        distances (`torch.FloatTensor` of shape `(T,)`): squared Mahalanobis distances per dimension.

    Returns:
        `torch.FloatTensor` of shape `(k, d)`.
    """
    logits = -distances / temperature
    peak = logits.new_full((k,), -torch.inf).scatter_reduce(0, cells, logits.detach(), "amax")
    mass = (logits - peak[cells]).exp()
    total = mass.new_zeros(k).index_add(0, cells, mass)
    pooled = descriptors.new_zeros(k, descriptors.shape[1]).index_add(0, cells, mass[:, None] * descriptors)
    return pooled / total[:, None]


def evidence_log_probabilities(relevance: torch.Tensor) -> torch.Tensor:
    r"""
    Log-probabilities (1 + T,) that no group, or group t, holds the evidence, of relevance logits r (T,): the groups
    compete, with one another and with "none of them" at logit 0.

    Without competition every group would gain by being chosen, as no gradient ever says that a place was wasted;
    without the logit 0 their common level would be free, and a logit above 0 would mean nothing.
    """
    with torch.autocast(relevance.device.type, enabled=False):
        return F.pad(relevance.float(), (1, 0)).log_softmax(dim=0)


class RichPoints(FullPrecisionModule):
    r"""
    Context of each representative, and the residual that adds [r; c; w; t] to its visual tokens.

    The context is an LSTM over a window around the representative (all windows in one batched call) plus a projection
    of its softly pooled cell. The residual passes a gate that is zero at birth, so that an untrained model is the
    base, to the bit.
    """

    def __init__(self, config, token_size: int, descriptor_size: int):
        super().__init__()
        size = config.context_size
        self.window = config.context_window
        self.frequencies = config.time_frequencies
        self.descriptor_norm = nn.LayerNorm(descriptor_size)
        self.context_input = nn.Linear(descriptor_size, size)
        self.context_encoder = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)
        self.cell_input = nn.Linear(descriptor_size, size)
        self.context_norm = nn.LayerNorm(size)
        self.visual_norm = nn.LayerNorm(token_size)
        self.fuse_in = nn.Linear(token_size + size + 1 + 2 * self.frequencies, 2 * size)
        self.fuse_out = nn.Linear(2 * size, token_size)
        self.gate = nn.Parameter(torch.zeros(token_size))

    def context(self, descriptors: torch.Tensor, indices: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Descriptors (T, d), chosen groups (k,), softly pooled cells (k, d) -> contexts c_i (k, context_size),
        float32."""
        with torch.autocast(descriptors.device.type, enabled=False):
            device = self.gate.device
            x = self.context_input(self.descriptor_norm(descriptors.to(self.gate)))
            encoded, _ = self.context_encoder(context_windows(x, indices.to(device), self.window))
            cell = self.cell_input(self.descriptor_norm(pooled.to(self.gate)))
            return self.context_norm(encoded[:, self.window // 2] + cell).to(descriptors.device, torch.float32)

    def encode_time(self, seconds: torch.Tensor) -> torch.Tensor:
        """Seconds (k,) -> (k, 2 * time_frequencies): sines and cosines with periods from 1 second to about 3 hours."""
        steps = torch.arange(self.frequencies, device=seconds.device) / max(self.frequencies - 1, 1)
        rates = 2 * math.pi * torch.exp(-math.log(10_000.0) * steps)
        angles = seconds.float()[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, tokens: torch.Tensor, context: torch.Tensor, weights: torch.Tensor, seconds: torch.Tensor):
        r"""
        Args:
            tokens (`torch.Tensor` of shape `(k, n, D)`): visual tokens of the representatives.
            context (`torch.FloatTensor` of shape `(k, context_size)`)
            weights (`torch.FloatTensor` of shape `(k,)`): share of the video each stands for.
            seconds (`torch.FloatTensor` of shape `(k,)`)

        Returns:
            `torch.Tensor` of shape `(k, n, D)`, of the tokens' own type.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            device = self.gate.device
            context, weights, seconds = context.to(device), weights.to(device), seconds.to(device)
            visual = self.visual_norm(tokens.to(device, torch.float32).mean(dim=1).to(self.gate))
            # As a logarithm and relative to 1/k, so that a representative of average weight gives zero.
            weight = (weights.float().clamp_min(1e-6) * len(weights)).log()
            point = torch.cat([visual, context, weight[:, None], self.encode_time(seconds)], dim=-1).to(self.gate)
            residual = self.gate * self.fuse_out(F.gelu(self.fuse_in(point)))
            return tokens + residual[:, None].to(tokens)

    def init_own_parameters(self):
        """The gate is zero at birth."""
        init.zeros_(self.gate)


__all__ = [
    "RichPoints",
    "context_windows",
    "evidence_log_probabilities",
    "soft_cell_pool",
]
