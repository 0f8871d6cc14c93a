"""The trained half of the selector: from the query's tokens to relevance and to a prior for the Gaussian.

Shapes: B rows, L query tokens, E width of the base's token embeddings, T groups, n visual tokens per group, D their
width, d descriptor width, s `selector_size`, m `query_slots`, r `covariance_rank`.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .gaussian_ntlbg import LowRankGaussian


def sinusoid(positions: torch.Tensor, size: int, longest: float = 10_000.0) -> torch.Tensor:
    """Sine-cosine code of `positions` (...,), shape (..., size); periods from 2 pi to 2 pi * `longest`."""
    half = size // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=positions.device) / max(half - 1, 1))
    angles = positions.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FullPrecisionModule(nn.Module):
    """Stays in its own type (float32) when the model around it is cast, as by `model.bfloat16()`; moves with it.

    DeepSpeed in half precision casts the weights themselves (and keeps float32 ones to train): then layers work in
    that type, and what leaves the module is float32 again.
    """

    def _apply(self, fn, recurse=True):
        def move_only(tensor):
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(move_only, recurse)


class QueryEncoder(nn.Module):
    """One transformer layer over the query's token embeddings, read out into m slots by attention pooling.

    Slots let one query name several things ("which came first, A or B?"): a sum of A and B would also match a mixture.
    """

    def __init__(self, embedding_size: int, size: int, slots: int):
        super().__init__()
        self.norm = nn.LayerNorm(embedding_size)
        self.project = nn.Linear(embedding_size, size)
        self.layer = nn.TransformerEncoderLayer(
            size, nhead=4, dim_feedforward=2 * size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.slots = nn.Parameter(torch.zeros(slots, size))
        self.value = nn.Linear(size, size)

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token embeddings (B, L, E) and their mask (B, L) -> slots (B, m, s); those of an empty row mean nothing."""
        # Attention over nothing is NaN, and would be so for the whole row.
        mask = mask.bool() | ~mask.bool().any(dim=1, keepdim=True)
        x = self.project(self.norm(embeddings))
        x = x + sinusoid(torch.arange(x.shape[1], device=x.device), x.shape[2]).to(x)
        x = self.layer(x, src_key_padding_mask=~mask)
        scores = torch.einsum("ms,bls->bml", self.slots, x) / math.sqrt(x.shape[2])
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        return torch.einsum("bml,bls->bms", scores.softmax(-1), self.value(x))


class NTLBGSelector(FullPrecisionModule):
    r"""
    Relevance of every group to the query, and the prior mu0(Q), D0(Q), U0(Q) of F|Q ~ N(mu_Q, Sigma_Q).

    A group is as relevant as the best match of any of its visual tokens with any of the query's slots, so that a small
    object is not averaged away. The prior enters through the gate `kappa`, which starts at zero: before training the
    Gaussian is the video's own moments.

    Everything runs in float32, whatever the base's type.
    """

    def __init__(self, config, token_size: int, descriptor_size: int, embedding_size: int):
        super().__init__()
        size = config.selector_size
        self.query_encoder = QueryEncoder(embedding_size, size, config.query_slots)
        self.key_norm = nn.LayerNorm(token_size)
        self.key = nn.Sequential(nn.Linear(token_size, size), nn.GELU(), nn.Linear(size, size))
        # Of one entry and not of none: DeepSpeed's ZeRO-3 cannot divide a tensor without dimensions.
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1))
        rank = min(config.covariance_rank, descriptor_size)
        self.prior_mean = nn.Linear(size, descriptor_size)
        self.prior_log_diagonal = nn.Linear(size, descriptor_size)
        self.prior_basis = nn.Parameter(torch.zeros(descriptor_size, rank))
        self.prior_scales = nn.Linear(size, rank)
        self.kappa = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, ...]:
        r"""
        Relevance, and the prior as plain tensors: mu0, D0, U0, and what it is worth in groups.

        What reads parameters of this module itself runs in here: sharded weights (ZeRO-3) are whole only during a
        module's own forward.

        The prior reads the slots and does not shape them: by L_NTLBG the best prior of a video is the same for every
        question, and slots that serve it forget theirs.
        """
        prior = self.prior(slots.detach())
        return self.relevance(tokens, slots), prior.mean, prior.diagonal, prior.factor, self.prior_worth

    def encode_query(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token embeddings (B, L, E) and mask (B, L) -> slots (B, m, s) in float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            slots = self.query_encoder(embeddings.to(self.kappa), mask.to(self.kappa.device))
            return slots.to(embeddings.device, torch.float32)

    def relevance(self, tokens: torch.Tensor, slots: torch.Tensor, chunk: int = 64) -> torch.Tensor:
        r"""
        Logits of "this group holds evidence for the query"; 0 is as likely as not.

        Args:
            tokens (`torch.Tensor` of shape `(..., T, n, D)`)
            slots (`torch.FloatTensor` of shape `(..., m, s)`)
            chunk (`int`): groups handled at once, which bounds the memory of the keys.

        Returns:
            `torch.FloatTensor` of shape `(..., T)`.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            device = self.kappa.device
            slots = F.normalize(slots.float(), dim=-1).to(device)
            parts = []
            for part in tokens.split(chunk, dim=-3):
                keys = F.normalize(self.key(self.key_norm(part.to(self.kappa))).float(), dim=-1)
                match = torch.einsum("...tns,...ms->...tnm", keys, slots)
                parts.append(match.flatten(-2).amax(dim=-1))
            # At birth: logit 0 where the cosine is .5, and a slope at which a cosine of 1 is a near certainty.
            logits = 16.0 * self.log_scale.exp() * (torch.cat(parts, dim=-1) - 0.5) + self.bias
            return logits.to(tokens.device)

    def prior(self, slots: torch.Tensor) -> LowRankGaussian:
        """Prior of one row's Gaussian from its slots (m, s)."""
        with torch.autocast(slots.device.type, enabled=False):
            pooled = slots.to(self.kappa.device, torch.float32).mean(dim=-2).to(self.kappa)
            return LowRankGaussian(
                self.prior_mean(pooled).to(slots.device, torch.float32),
                (F.softplus(self.prior_log_diagonal(pooled).float()) + 1e-4).to(slots.device),
                (self.prior_basis * self.prior_scales(pooled)).to(slots.device, torch.float32),
            )

    @property
    def prior_worth(self) -> torch.Tensor:
        """What the prior is worth, in groups: |kappa|, with slope 1 at 0, so that any step away from 0 opens it."""
        return torch.where(self.kappa < 0, -self.kappa, self.kappa)[0].float()

    def init_own_parameters(self, std: float):
        """Values at birth of what is not a linear or norm layer."""
        init.zeros_(self.log_scale)
        init.zeros_(self.bias)
        init.zeros_(self.kappa)
        init.normal_(self.prior_basis, std=std)
        init.normal_(self.query_encoder.slots, std=1.0)


__all__ = ["FullPrecisionModule", "NTLBGSelector", "QueryEncoder", "sinusoid"]
