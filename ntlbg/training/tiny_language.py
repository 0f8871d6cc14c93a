"""Stage 3 of the tiny base: the language model learns to answer from k chosen groups of a long video.

Teacher forcing on frozen features. Token ids and M-RoPE positions are the ones inference gives: those of the full
prompt of all T groups, gathered at what is kept (tests/test_tiny_base.py compares them with the base's own
`get_rope_index`).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ntlbg.data.questions import (
    GROUP_SECONDS,
    Question,
    answerable,
    ask,
    fill_evenly,
    oracle_groups,
    span_groups,
    uniform_groups,
)
from ntlbg.data.world import VideoSpec
from ntlbg.training.tiny_model import GROUP_TOKENS, HIDDEN
from ntlbg.training.tiny_vision import build_optimizers, schedule


KIND_SHARES = {"retrieve": 0.15, "order": 0.20, "count": 0.35, "scenes": 0.15, "longest": 0.15}
BUDGETS = {4: 0.08, 6: 0.06, 8: 0.50, 12: 0.10, 16: 0.14, 24: 0.06, 32: 0.06}
WIDE_BUDGETS = {4: 0.05, 8: 0.30, 16: 0.20, 32: 0.20, 64: 0.15, 128: 0.10}
ANSWERABLE_SHARE = 0.96
MAX_RUNNING = 8  # classes of the running count: 0..7, more count as 7
IGNORE = -100


@dataclass
class CachedVideo:
    """A video and its frozen features (T, 4, hidden) float16."""

    spec: VideoSpec
    features: torch.Tensor

    @property
    def total(self) -> int:
        return self.features.shape[0]


@dataclass
class Example:
    """A question about a cached video with the groups (k,) that are kept of it."""

    video: CachedVideo
    question: Question
    groups: np.ndarray


class PromptWriter:
    """Turns questions into token ids exactly as the processor's chat template does."""

    def __init__(self, processor):
        self.tokenizer = processor.tokenizer
        marker = "QUESTION"
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": marker}]}]
        rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        self.before, rest = rendered.split(marker)
        self.opening, after = rest.split(processor.video_token)
        self.after = self._encode([after])[0]
        self.eos = self.tokenizer.eos_token_id

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]

    def heads(self, questions: list[str]) -> list[list[int]]:
        """Ids of everything before the video."""
        return self._encode([self.before + text + self.opening for text in questions])

    def tails(self, answers: list[str]) -> list[list[int]]:
        """Ids of everything after the video, answer and end of turn included."""
        return [self.after + ids + [self.eos] for ids in self._encode(answers)]


def evidence_labels(question: Question, groups: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the throw-away heads for each kept group.

    Returns:
        status (k,): 0 irrelevant, 1 first sight of an event or scene asked about, 2 another sight of it.
        running (k,): how many of them have been met so far.
    """
    owner = np.full(total, -1)
    for number, span in enumerate(span_groups(question, total)):
        owner[span] = number
    status, running, met = np.zeros(len(groups), dtype=np.int64), np.zeros(len(groups), dtype=np.int64), set()
    for i, number in enumerate(owner[groups].tolist()):
        if number >= 0:
            status[i] = 2 if number in met else 1
            met.add(number)
        running[i] = min(len(met), MAX_RUNNING - 1)
    return status, running


def collate(examples: list[Example], writer: PromptWriter, embed: nn.Module) -> dict[str, torch.Tensor]:
    """A batch of examples that keep equally many groups.

    Returns:
        inputs_embeds (B, L, hidden), position_ids (3, B, L), answer positions `where` and `targets` (B, A) (-100 is
        padding; `where` points at the token that predicts), `visual` (B, 4k) positions of the visual tokens, status
        and running (B, k).
    """
    heads = writer.heads([e.question.text for e in examples])
    tails = writer.tails([e.question.answer for e in examples])
    tokens = GROUP_TOKENS * len(examples[0].groups)
    lengths = [len(h) + tokens + len(t) for h, t in zip(heads, tails, strict=True)]
    batch, width = len(examples), max(lengths)
    answers = max(len(t) for t in tails) - len(writer.after)
    ids = np.full((batch, width), writer.eos, dtype=np.int64)
    positions = np.zeros((3, batch, width), dtype=np.int64)
    where = np.zeros((batch, answers), dtype=np.int64)
    targets = np.full((batch, answers), IGNORE, dtype=np.int64)
    visual = np.zeros((batch, tokens), dtype=np.int64)
    side = int(GROUP_TOKENS**0.5)
    cell = np.arange(tokens) % GROUP_TOKENS
    for row, (example, head, tail) in enumerate(zip(examples, heads, tails, strict=True)):
        start, stop = len(head), len(head) + tokens
        ids[row, :start] = head
        ids[row, stop : stop + len(tail)] = tail
        positions[:, row, :start] = np.arange(start)
        positions[0, row, start:stop] = start + np.repeat(example.groups, GROUP_TOKENS)
        positions[1, row, start:stop] = start + cell // side
        positions[2, row, start:stop] = start + cell % side
        # Text goes on at start + max(height, width) / merge, whatever the number of groups: the base's own rule.
        positions[:, row, stop:] = start + side + np.arange(width - stop)
        visual[row] = np.arange(start, stop)
        said = len(tail) - len(writer.after)
        where[row, :said] = stop + len(writer.after) - 1 + np.arange(said)
        targets[row, :said] = tail[len(writer.after) :]
    inputs = embed(torch.from_numpy(ids))
    features = torch.stack([e.video.features[torch.from_numpy(e.groups)].flatten(0, 1) for e in examples]).float()
    visual = torch.from_numpy(visual)
    inputs = inputs.scatter(1, visual[..., None].expand(-1, -1, inputs.shape[-1]), features)
    labels = [evidence_labels(e.question, e.groups, e.video.total) for e in examples]
    return {
        "inputs_embeds": inputs,
        "position_ids": torch.from_numpy(positions),
        "where": torch.from_numpy(where),
        "targets": torch.from_numpy(targets),
        "visual": visual,
        "status": torch.from_numpy(np.stack([s for s, _ in labels])),
        "running": torch.from_numpy(np.stack([r for _, r in labels])),
    }


def busy_groups(spec: VideoSpec, total: int) -> np.ndarray:
    """Groups in which any event is seen: sorted int64."""
    busy = np.zeros(total, dtype=bool)
    for event in spec.events:
        busy[event.start // GROUP_SECONDS : (event.end - 1) // GROUP_SECONDS + 1] = True
    return busy.nonzero()[0]


def draw_groups(question: Question, total: int, k: int, rng: np.random.Generator, busy: np.ndarray) -> np.ndarray:
    """k groups as some selector might choose them: (k,) sorted int64.

    A mixture, so that the answerer suits no selector in particular: events covered with neighbours, mostly relevant,
    one per scene, half relevant and half even, even, random. What fills up the k shows now anything, now other events
    (`busy`), as the choices of a selector do that looks for the unusual.
    """
    for _ in range(4):
        groups = _draw_once(question, total, k, rng, busy if rng.random() < 0.5 else np.arange(total))
        if answerable(question, groups, total):
            return groups
    if rng.random() < ANSWERABLE_SHARE:
        groups = oracle_groups(question, total, k)
        return groups if answerable(question, groups, total) else uniform_groups(total, k)
    return groups


def _draw_once(question, total, k, rng, pool):
    spans = span_groups(question, total)
    mode = rng.random()
    if question.is_global:
        if mode < 0.35:  # one per scene, the rest at random
            return _top_up(_one_each(spans, k, rng, pool), total, k, rng, pool)
        if mode < 0.55:  # one per scene, the rest evenly
            return fill_evenly(_one_each(spans, k, rng, pool), total, k)
        if mode < 0.65:
            return _top_up([], total, k, rng, pool)
        return _jittered(total, k, rng)
    if mode < 0.40:  # every event, some of them several times, the rest at random
        return _top_up(_cover(spans, k, rng, repeats=rng.random()), total, k, rng, pool)
    if mode < 0.62:  # relevance first: as much of the events as fits
        return _top_up(_cover(spans, k, rng, repeats=1.0), total, k, rng, pool)
    if mode < 0.72:
        return oracle_groups(question, total, k)
    if mode < 0.90:  # every event, the rest evenly
        return fill_evenly(_cover(spans, k, rng, repeats=rng.random() * 0.5)[:k], total, k)
    if mode < 0.95:
        return _jittered(total, k, rng)
    return _top_up([], total, k, rng, pool)


def _one_each(spans, k, rng, pool):
    """A random group of every span, out of `pool` where the span has one there; at most k."""
    chosen = []
    for span in spans:
        wanted = np.intersect1d(span, pool)
        chosen.append(int(rng.choice(wanted if len(wanted) else span)))
    return chosen[:k]


def _cover(spans, k, rng, repeats):
    """One random group of every span, then other groups of the spans, each with probability `repeats`; at most k."""
    chosen = [int(rng.choice(span)) for span in spans]
    others = [int(g) for span in spans for g in span if g not in chosen and rng.random() < repeats]
    rng.shuffle(others)
    return (chosen + others)[:k]


def _top_up(chosen, total, k, rng, pool):
    """Random groups of `pool`, and of all where it does not suffice, added to `chosen` until there are min(k,
    total)."""
    missing = min(k, total) - len(chosen)
    free = np.setdiff1d(pool, chosen)
    more = rng.choice(free, size=min(missing, len(free)), replace=False)
    taken = np.concatenate([np.array(chosen, dtype=np.int64), more.astype(np.int64)])
    rest = rng.choice(np.setdiff1d(np.arange(total), taken), size=missing - len(more), replace=False)
    return np.sort(np.concatenate([taken, rest]))


def _jittered(total, k, rng):
    """One group at about the same place of each of k equal parts, now and then at a random place in each."""
    k = min(k, total)
    offset = rng.random(k) if rng.random() < 0.3 else np.full(k, 0.5 if rng.random() < 0.5 else rng.random())
    return ((np.arange(k) + offset * 0.999) * total / k).astype(np.int64)


def draw_example(videos: list[CachedVideo], k: int, rng: np.random.Generator) -> Example:
    """A random question about a random video, seen through k groups.

    The kind is drawn first, so that the shares of the kinds hold although not every video has a question of each.
    Where no video out of many has one, another kind is drawn.
    """
    kinds, shares = list(KIND_SHARES), list(KIND_SHARES.values())
    while True:
        kind = kinds[rng.choice(len(kinds), p=shares)]
        for _ in range(50):
            video = videos[rng.integers(len(videos))]
            question = ask(video.spec, kind, rng)
            if question is not None:
                busy = busy_groups(video.spec, video.total)
                return Example(video, question, draw_groups(question, video.total, k, rng, busy))


class EvidenceHead(nn.Module):
    """Throw-away head on the language model's last states at visual tokens: status (3) and running count (8)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(HIDDEN, 3 + MAX_RUNNING)

    def loss(self, states: torch.Tensor, status: torch.Tensor, running: torch.Tensor) -> torch.Tensor:
        """states (B, 4k, hidden); status, running (B, k). The last token of a group carries the verdict."""
        logits = self.linear(states[:, GROUP_TOKENS - 1 :: GROUP_TOKENS])
        return F.cross_entropy(logits[..., :3].flatten(0, 1), status.flatten()) + F.cross_entropy(
            logits[..., 3:].flatten(0, 1), running.flatten()
        )


def run_batch(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer logits (B, A, vocabulary) and last states at the visual tokens (B, 4k, hidden)."""
    states = model.model.language_model(
        inputs_embeds=batch["inputs_embeds"], position_ids=batch["position_ids"], use_cache=False
    ).last_hidden_state
    width = states.shape[-1]
    said = states.gather(1, batch["where"][..., None].expand(-1, -1, width))
    seen = states.gather(1, batch["visual"][..., None].expand(-1, -1, width))
    return model.lm_head(said), seen


def train_language(
    model,
    processor,
    videos: list[CachedVideo],
    *,
    steps: int,
    batch: int = 64,
    seed: int = 0,
    lr: float = 2e-3,
    adam_lr: float = 2e-3,
    evidence_weight: float = 0.3,
    budgets: dict[int, float] = BUDGETS,
    words_fixed: bool = False,
    on_step=None,
) -> list[float]:
    """Train language model and embeddings; the vision tower stays as it is.

    Args:
        budgets: {k: share of the steps}; a step takes videos of at least k groups.
        words_fixed: leave the embeddings as they are, so that a selector that reads them need not be trained again.
        on_step: called with the step number after every step (evaluation, checkpoints).

    Returns:
        The answer losses, one per step.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([29, seed])
    writer, head = PromptWriter(processor), EvidenceHead()
    text_model = model.model.language_model
    text_model.embed_tokens.requires_grad_(not words_fixed)
    optimizers = build_optimizers([text_model, head], lr=lr, adam_lr=adam_lr)
    base_lrs = [[group["lr"] for group in opt.param_groups] for opt in optimizers]
    shares = list(budgets.values())
    losses = []
    bar = tqdm(range(steps), desc="language: training", mininterval=5)
    for step in bar:
        k = list(budgets)[rng.choice(len(budgets), p=shares)]
        size = max(8, batch * 8 // k) if k > 8 else batch
        long_enough = [video for video in videos if video.total >= k]
        examples = [draw_example(long_enough, k, rng) for _ in range(size)]
        data = collate(examples, writer, text_model.embed_tokens)
        logits, states = run_batch(model, data)
        loss = F.cross_entropy(logits.flatten(0, 1), data["targets"].flatten(), ignore_index=IGNORE)
        evidence = head.loss(states, data["status"], data["running"])
        (loss + evidence_weight * evidence).backward()
        torch.nn.utils.clip_grad_norm_(text_model.parameters(), 1.0)
        for opt, lrs in zip(optimizers, base_lrs, strict=True):
            for group, base in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = base * schedule(step, steps, warmup=100)
            opt.step()
            opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 50 == 49:
            bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f} evidence {evidence.item():.3f}")
        if on_step is not None:
            on_step(step)
    text_model.embed_tokens.requires_grad_(True)
    return losses


@torch.no_grad()
def exact_match(model, processor, examples: list[Example], batch: int = 64) -> np.ndarray:
    """Whether greedy decoding says exactly the answer, (n,) bool.

    By teacher forcing: greedy text equals the answer if and only if every token of it (end of turn included) is the
    argmax given the tokens before. Examples must keep equally many groups.
    """
    writer = PromptWriter(processor)
    right = []
    for start in range(0, len(examples), batch):
        data = collate(examples[start : start + batch], writer, model.model.language_model.embed_tokens)
        guess = run_batch(model, data)[0].argmax(-1)
        right.append(((guess == data["targets"]) | (data["targets"] == IGNORE)).all(-1))
    return torch.cat(right).numpy()


def event_topk(question: Question, total: int, k: int) -> np.ndarray:
    """What a perfect relevance curve gives a plain top-k: groups of the events first, in time order, then an even
    fill.
    """
    relevant = [int(g) for span in span_groups(question, total) for g in span]
    return fill_evenly(relevant[:k] if not question.is_global else [], total, k)


SELECTORS = {
    "uniform": lambda question, total, k: uniform_groups(total, k),
    "event-topk": event_topk,
    "oracle": oracle_groups,
}


def evaluate_base(
    model, processor, videos: list[CachedVideo], *, k: int = 8, wording: str = "train", seed: int = 0
) -> dict[str, dict[str, tuple[float, int]]]:
    """Exact match of the answerer under selectors that cheat by a known amount.

    Returns:
        {selector: {kind: (accuracy 0..1, number of questions)}}; one question of each kind per video that has one.
        Kinds that no video has a question of are left out.
    """
    rng = np.random.default_rng([31, seed])
    asked = {}
    for kind in KIND_SHARES:
        pairs = [(video, ask(video.spec, kind, rng, wording=wording)) for video in videos]
        asked[kind] = [(video, question) for video, question in pairs if question is not None]
    results = {}
    for name, select in SELECTORS.items():
        results[name] = {}
        for kind, pairs in asked.items():
            if pairs:
                right = exact_match(model, processor, [Example(v, q, select(q, v.total, k)) for v, q in pairs])
                results[name][kind] = (float(right.mean()), len(right))
    return results


def format_results(results: dict[str, dict[str, tuple[float, int]]]) -> str:
    """The results of `evaluate_base` as a Markdown table in per cent."""
    kinds = list(next(iter(results.values())))
    lines = ["| selector | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, row in results.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * row[kind][0]:.1f}" for kind in kinds) + " |")
    lines.append("| n | " + " | ".join(str(row[kind][1]) for kind in kinds) + " |")
    return "\n".join(lines)
