"""LoRA around an NTLBG model: adapters in the language model, all else that a stage trains saved beside them; and the
model that comes of it, without adapters."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ntlbg.grounding.time_tokens import trainable_rows
from ntlbg.training.stage_names import FEATURE_STAGES
from ntlbg.training.stages import OWN_PARTS, is_adapter, part_of


def with_lora(
    model: nn.Module,
    stage: str,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    target_modules: str,
    trained_tokens: Sequence[int] = (),
) -> nn.Module:
    r"""
    A `PeftModel` whose checkpoints hold what the stage trains: adapters, selector, rich points, transition, the
    projector of a second stream, and, end to end, the vision tower's merger.

    Args:
        model (`NTLBGForConditionalGeneration`)
        stage (`str`): one in which the language model trains.
        r, alpha, dropout: of [`~peft.LoraConfig`].
        target_modules (`str`): regular expression over module names.
        trained_tokens: ids of words whose rows of the embeddings, and of the output layer, train in full.

    Raises:
        ValueError: the expression meets no module, or one outside the language model.
    """
    from peft import LoraConfig, get_peft_model

    _tell_ties(model)
    hit = [name for name, module in model.named_modules() if re.fullmatch(target_modules, name)]
    if not hit:
        raise ValueError(
            f"`lora_target_modules` is {target_modules!r}, which no module's name matches; their names are like "
            "'vlm.model.language_model.layers.0.self_attn.q_proj'."
        )
    outside = [name for name in hit if part_of(name) != "language_model"]
    if outside:
        raise ValueError(
            f"`lora_target_modules` is {target_modules!r}, which also matches {outside[0]!r}; adapters belong "
            "into the language model alone: the other parts train in full."
        )
    parts = dict(model.named_children())
    saved = [part for part in OWN_PARTS if part in parts]
    if stage in FEATURE_STAGES:
        saved += _mergers(model)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        modules_to_save=saved,
        trainable_token_indices=trainable_rows(model, list(trained_tokens)) if trained_tokens else None,
    )
    return get_peft_model(model, config)


def load_adapters(model: nn.Module, folder: str | Path) -> nn.Module:
    """The `PeftModel` that `with_lora` made and a training saved in `folder`, around the same model."""
    from peft import PeftModel

    _tell_ties(model)
    return PeftModel.from_pretrained(model, folder)


def _tell_ties(model: nn.Module) -> None:
    """Peft looks for what is tied to the embeddings inside a model only if the outermost one has such a mapping."""
    if model._tied_weights_keys is None:
        model._tied_weights_keys = {}


def merged_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    r"""
    The weights of the NTLBG model inside a `PeftModel`, adapters added in, under that model's own names; the model
    itself stays as it is.

    Raises:
        ValueError: the weights are quantized (an adapter cannot be added to them), or are spread over processes.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    inner, adapter = model.get_base_model(), model.active_adapter
    kinds = (LoraLayer, TrainableTokensLayer)
    layers = {name: module for name, module in inner.named_modules() if isinstance(module, kinds)}
    merged = {}
    for name, value in inner.state_dict().items():
        if ".original_module." in name or is_adapter(name):
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if isinstance(layer, TrainableTokensLayer):
            rows = torch.tensor(layer.token_indices[adapter], device=value.device)
            value = value.index_copy(0, rows, layer.trainable_tokens_delta[adapter].detach().to(value))
        elif layer is not None:
            if not value.is_floating_point() or value.shape != (layer.out_features, layer.in_features):
                raise ValueError(
                    f"The adapter of {name!r} cannot be added to weights of type {value.dtype} and shape "
                    f"{tuple(value.shape)}; load the base unquantized and whole, and the adapters onto it."
                )
            value = (value.float() + layer.get_delta_weight(adapter).float()).to(value.dtype)
        name = name.replace(f".modules_to_save.{adapter}.", ".").replace(".token_adapter.", ".")
        merged[name.replace(".base_layer.", ".")] = value
    return merged


def _mergers(model: nn.Module) -> list[str]:
    """The modules that turn the vision tower's features into visual tokens; lists of them one by one."""
    names = []
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if (".visual." in name and "merger" in last) or last == "multi_modal_projector":
            names += [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]
    return names


__all__ = ["load_adapters", "merged_state_dict", "with_lora"]
