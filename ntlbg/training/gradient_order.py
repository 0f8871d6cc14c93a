"""Gradients that come in one order on every process.

DeepSpeed fills its buckets with gradients as they come, and adds up those of all processes position by position: in
another order one parameter's gradient is added to another's, without a word. Autograd settles the order by the graph,
but for parameters that one node gives their gradients all at once (a LayerNorm's two, an LSTM's eight): among these it
depends on what else is waiting, and so on what is in a batch. All such belong to one module, so these are handed on
together.
"""

from torch import nn


def order_gradients(model: nn.Module) -> None:
    """Hand the gradients of each module's own parameters, once all have come, to those that wait for them: in the
    order of the parameters. To be called when DeepSpeed's hooks are in place; a second call changes nothing.

    Every trained parameter has to get a gradient in every backward pass.
    """
    for module in model.modules():
        parameters = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        waiting = [(parameter, _hooks(parameter)) for parameter in parameters]
        if len(waiting) > 1 and all(hooks for _, hooks in waiting):
            _Together(waiting)


def _hooks(parameter: nn.Parameter) -> list:
    """Those that wait for its gradient, but for ours."""
    hooks = (parameter._post_accumulate_grad_hooks or {}).values()
    return [hook for hook in hooks if not isinstance(getattr(hook, "__self__", None), _Together)]


class _Together:
    def __init__(self, waiting: list[tuple[nn.Parameter, list]]):
        self._waiting, self._come = waiting, 0
        for parameter, _ in waiting:
            parameter._post_accumulate_grad_hooks.clear()
            parameter.register_post_accumulate_grad_hook(self._arrive)

    def _arrive(self, _):
        self._come += 1
        if self._come == len(self._waiting):
            self._come = 0
            for parameter, hooks in self._waiting:
                for hook in hooks:
                    hook(parameter)


__all__ = ["order_gradients"]
