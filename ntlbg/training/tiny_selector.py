"""Stage 4 of the tiny recipe: the selector learns from spans which groups hold evidence for a question.

The base is frozen; what learns is the query encoder and the relevance head of `NTLBGSelector`, on cached features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ntlbg.data.questions import KINDS, ask, relevance_labels
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.training.tiny_language import CachedVideo
from ntlbg.training.tiny_vision import schedule


# Fields of the tiny NTLBG model's configuration. One candidate frame a second: a group is two seconds of video.
CONFIG = {
    "num_representatives": 8,
    "candidate_fps": 1.0,
    "max_candidates": 768,
    "covariance_rank": 16,
    "selector_size": 96,
    "query_slots": 4,
    "context_size": 32,
    "context_window": 5,
    "time_frequencies": 8,
}
LEARNING = ("selector.query_encoder", "selector.key", "selector.log_scale", "selector.bias")


def draw_batch(videos: list[CachedVideo], size: int, rng: np.random.Generator, tokenizer) -> dict[str, torch.Tensor]:
    """`size` questions about random videos, padded to the longest video of the batch.

    Returns:
        tokens (B, T, 4, hidden), labels and mask (B, T), query_ids and query_mask (B, L).
    """
    chosen, questions = [], []
    while len(questions) < size:
        video = videos[rng.integers(len(videos))]
        question = ask(video.spec, KINDS[rng.integers(len(KINDS))], rng)
        if question is not None:
            chosen.append(video)
            questions.append(question)
    longest = max(video.total for video in chosen)
    tokens = torch.zeros(size, longest, *chosen[0].features.shape[1:])
    labels, mask = torch.zeros(size, longest), torch.zeros(size, longest, dtype=torch.bool)
    for row, (video, question) in enumerate(zip(chosen, questions, strict=True)):
        tokens[row, : video.total] = video.features
        labels[row, : video.total] = torch.from_numpy(relevance_labels(question, video.total))
        mask[row, : video.total] = True
    encoded = tokenizer([question.text for question in questions], padding=True, return_tensors="pt")
    return {
        "tokens": tokens,
        "labels": labels,
        "mask": mask,
        "query_ids": encoded.input_ids,
        "query_mask": encoded.attention_mask,
    }


def relevance_logits(model: NTLBGForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, T) logits, by the same path as `model.select`."""
    slots = model.selector.encode_query(model.get_input_embeddings()(batch["query_ids"]), batch["query_mask"])
    return model.selector.relevance(batch["tokens"], slots)


def train_selector(
    model: NTLBGForConditionalGeneration,
    tokenizer,
    videos: list[CachedVideo],
    *,
    steps: int,
    batch: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Binary cross-entropy of relevance against the spans; a global question has none, so that its curve stays low.

    Returns:
        The losses, one per step. `model.config.selector_trained` is set.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([31, seed])
    learning = [parameter for name, parameter in model.named_parameters() if name.startswith(LEARNING)]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0.01)
    losses = []
    bar = tqdm(range(steps), desc="selector: training", mininterval=5)
    for step in bar:
        data = draw_batch(videos, batch, rng, tokenizer)
        logits = relevance_logits(model, data)
        loss = F.binary_cross_entropy_with_logits(logits[data["mask"]], data["labels"][data["mask"]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps, warmup=100)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 50 == 49:
            bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.4f}")
    model.config.selector_trained = True
    return losses


@torch.no_grad()
def relevance_quality(
    model, tokenizer, videos: list[CachedVideo], batches: int = 8, seed: int = 1
) -> dict[str, float]:
    """Share of evidence groups found (logit > 0), share of found groups that are evidence, on drawn questions."""
    rng = np.random.default_rng([37, seed])
    hits = found = wanted = 0
    for _ in range(batches):
        data = draw_batch(videos, 32, rng, tokenizer)
        above = (relevance_logits(model, data) > 0) & data["mask"]
        truth = data["labels"].bool()
        hits += int((above & truth).sum())
        found += int(above.sum())
        wanted += int(truth.sum())
    return {"recall": hits / max(wanted, 1), "precision": hits / max(found, 1)}


__all__ = ["CONFIG", "draw_batch", "relevance_logits", "relevance_quality", "train_selector"]
