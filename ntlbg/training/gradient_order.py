"""Gradients that come in one order on every process.

DeepSpeed fills its buckets with gradients as they come, and adds up those of all processes position by position: in
another order one parameter's gradient is added to another's, without a word. Autograd settles the order by the graph,
but for parameters that one node gives their gradients all at once, as an LSTM's eight: among these it depends on what
else is waiting, and so on how many videos a batch has.
"""

import torch
from torch import nn


def order_gradients(model: nn.Module) -> None:
    """Let the weights of every LSTM in `model` get their gradients one after another."""
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            module.register_forward_pre_hook(_chain_weights)


def _chain_weights(lstm: nn.LSTM, _):
    # What its forward reads; made anew from the parameters, which are replaced when a model is moved.
    chained: tuple[torch.Tensor, ...] = ()
    for name in reversed(lstm._flat_weights_names):
        chained = _After.apply(getattr(lstm, name), *chained)
    lstm._flat_weights = list(chained)


class _After(torch.autograd.Function):
    """The same tensors; in the backward pass the first gets its gradient here, the others in nodes after this one."""

    @staticmethod
    def forward(ctx, *tensors):
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


__all__ = ["order_gradients"]
