"""Time tokens in a model: `<0>` .. `<M>` and the grounding token as new words, learnt without touching the old ones.

A new word begins at the mean of the old ones (Grounded-VideoLLM, arXiv 2410.03290). peft's `trainable_token_indices`
then trains these rows alone: `LoraConfig(trainable_token_indices=trainable_rows(model, ids), ...)`.

Shapes: V words, d the width of the embeddings.
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken
from torch import nn

from ntlbg.errors import InputError
from ntlbg.grounding.time_formats import BINS, GROUNDING_TOKEN


def time_tokens(bins: int = BINS) -> list[str]:
    """`<0>` .. `<bins>` and the grounding token."""
    return [*(f"<{number}>" for number in range(bins + 1)), GROUNDING_TOKEN]


@torch.no_grad()
def add_time_tokens(model: nn.Module, tokenizer, bins: int = BINS) -> list[int]:
    """Add the time tokens to a tokenizer and a model of transformers; a second call changes nothing.

    They are no special tokens: `decode(skip_special_tokens=True)` keeps them, and answers hold them.

    Args:
        model: a model with input embeddings (V, d) and possibly an output layer, tied or not. Embeddings that are
            larger than the tokenizer, as Qwen's are, grow only if they have to, and never shrink.
        tokenizer: the model's.
        bins: M.

    Returns:
        the ids of `time_tokens(bins)`, in that order.

    Raises:
        ValueError: a time token is in the vocabulary as something else, a special token.
    """
    tokens = time_tokens(bins)
    special = set(tokens) & set(tokenizer.all_special_tokens)
    if special:
        raise ValueError(f"{sorted(special)[0]!r} is a special token of this tokenizer; it cannot be a time token")
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    old_size = len(tokenizer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in new])
    ids = tokenizer.convert_tokens_to_ids(tokens)
    if not new:
        return ids
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new_ids = tokenizer.convert_tokens_to_ids(new)
    for weight in _embedding_weights(model):
        # The words the model was trained with; rows behind them only pad the matrix.
        weight[new_ids] = weight[:old_size].float().mean(dim=0).to(weight.dtype)
    return ids


def check_time_tokens(tokenizer, bins: int = BINS) -> None:
    """
    Raises:
        InputError: the tokenizer lacks time tokens.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in time_tokens(bins) if token not in known]
    if missing:
        raise InputError(
            f"the tokenizer has no time token {missing[0]!r}; train the model with the time format 'tokens' (train.py "
            "adds them), or take another time format"
        )


def trainable_rows(model: nn.Module, ids: list[int]) -> dict[str, list[int]]:
    """Peft's `trainable_token_indices`: these rows of the embeddings, and of an output layer that is not tied to them.

    Args:
        model: the model that will get adapters.
        ids: rows that shall train.
    """
    weights = _embedding_weights(model)
    names = {id(module): name for name, module in model.named_modules()}
    modules = [model.get_input_embeddings(), model.get_output_embeddings()][: len(weights)]
    return {names[id(module)]: sorted(ids) for module in modules}


def _embedding_weights(model: nn.Module) -> list[nn.Parameter]:
    """Input embeddings (V, d) and, where it is another matrix, the output layer's (V, d)."""
    weights = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not weights[0]:
        weights.append(output.weight)
    return weights


__all__ = ["add_time_tokens", "check_time_tokens", "time_tokens", "trainable_rows"]
