"""What ZeRO-3 does not divide while a step is computed: all but the language model.

DeepSpeed gathers a divided module's weights around each of its calls, on all processes together and in the order of
calls. The language model is called once a batch on each. The vision tower and our own parts are called as often as a
batch has videos and a video has groups, which differs from process to process: one would wait for another for ever. So
their weights are gathered once per optimizer step, before its first forward pass, and none of their calls is
DeepSpeed's business; gradients and optimizer states stay divided. It is also much less to send than a whole tower for
every chunk of groups.
"""

from collections.abc import Iterator

from torch import nn

from ntlbg.training.stages import part_of


_DIVIDED = {"language_model", "embeddings"}


class WholeParts:
    """
    The parts of a model that are whole under ZeRO-3; without it there is nothing to do.

    Args:
        model (`NTLBGForConditionalGeneration`, or a `PeftModel` of one)
    """

    def __init__(self, model: nn.Module):
        self._parameters = [own for name, own in model.named_parameters() if part_of(name) not in _DIVIDED]
        self._modules = {inner for outer in _outermost(model) for inner in outer.modules()}

    def gather(self) -> None:
        """Make the weights whole where they are not. All processes call, before a forward pass or `generate`."""
        divided = [parameter for parameter in self._parameters if hasattr(parameter, "ds_id")]
        if not divided:
            return
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        for module in self._modules:
            _forget_hooks(module)
        missing = [parameter for parameter in divided if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE]
        if missing:
            missing[0].all_gather(missing)


def _outermost(model: nn.Module, prefix: str = "") -> Iterator[nn.Module]:
    """The modules that hold parameters, and none of the language model's, and are inside of no other such."""
    for name, child in model.named_children():
        parts = {part_of(f"{prefix}{name}.{own}") for own, _ in child.named_parameters()}
        if parts & _DIVIDED:
            yield from _outermost(child, f"{prefix}{name}.")
        elif parts:
            yield child


def _forget_hooks(module: nn.Module) -> None:
    """Take off DeepSpeed's hooks, which would note the order of calls, and release the weights after each."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number, hook in list(hooks.items()):
            if hook.__module__.startswith("deepspeed."):
                del hooks[number]


__all__ = ["WholeParts"]
