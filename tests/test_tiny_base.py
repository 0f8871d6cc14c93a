"""The tiny base is trained on exactly what inference sees, and what is trained learns."""

import numpy as np
import pytest
import torch

from ntlbg.data.questions import KINDS, WORDINGS, all_words, answerable, ask
from ntlbg.data.world import BACKGROUNDS, COLORS, SHAPES, build_video
from ntlbg.data.world_render import Renderer
from ntlbg.training.tiny_language import (
    CachedVideo,
    Example,
    PromptWriter,
    busy_groups,
    collate,
    draw_example,
    draw_groups,
    evaluate_base,
    evidence_labels,
    exact_match,
    run_batch,
    train_language,
)
from ntlbg.training.tiny_model import (
    EMBEDDING_STD,
    build_base,
    build_processor,
    build_tokenizer,
    encode_groups,
    to_patches,
)
from ntlbg.training.tiny_vision import dense_video, group_labels, normalise_features, train_vision


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(all_words())
    return build_base(tokenizer).eval(), build_processor(tokenizer)


@pytest.fixture(scope="module")
def video(base):
    """A real cached video of 64 groups and its frames (128, 56, 56, 3)."""
    spec = build_video(4, 128)
    renderer = Renderer(spec, 56)
    frames = np.stack([renderer.frame(t) for t in range(128)])
    with torch.no_grad():
        features = encode_groups(base[0].model.visual, to_patches(torch.from_numpy(frames).view(-1, 2, 56, 56, 3)))
    return CachedVideo(spec, features), frames


def chat(processor, text, frames):
    messages = [
        {"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": text}]},
    ]
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )


def test_every_word_is_one_token_and_all_other_text_survives(base):
    tokenizer = base[1].tokenizer
    for word in (*COLORS, *SHAPES, *BACKGROUNDS, *"0123456789"):
        assert len(tokenizer.tokenize(word)) == 1
    for train, heldout in WORDINGS.values():
        for text in (*train, *heldout):
            text = text.format(shape="star", color="red", a="blue star", b="pink cross", an_a="an orange circle")
            words = "".join(c if c.isalpha() else f" {c}" for c in text).split()
            assert len(tokenizer.tokenize(text)) == len(words)
    for text in ("Grüße, 世界! 🙂", "  two  spaces\n", "Zyzzyva42"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_question_stands_before_the_video_whatever_the_order_of_the_message(base):
    parts = [{"type": "video"}, {"type": "text", "text": "Why?"}]
    first, second = (
        base[1].apply_chat_template(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for content in (parts, parts[::-1])
    )
    assert (
        first
        == second
        == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nWhy?<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
        )
    )


def test_patches_are_those_of_the_processor(base, video):
    _, frames = video
    inputs = chat(base[1], "Why?", frames)
    assert inputs["video_grid_thw"].tolist() == [[64, 4, 4]]
    ours = to_patches(torch.from_numpy(frames).view(-1, 2, 56, 56, 3)).flatten(0, 1)
    assert torch.allclose(ours, inputs["pixel_values_videos"], atol=1e-5)
    large = np.repeat(np.repeat(frames, 4, axis=1), 4, axis=2)
    assert chat(base[1], "Why?", large)["video_grid_thw"].tolist() == [[64, 4, 4]]


def test_the_batched_tower_is_the_stock_tower(base, video):
    _, frames = video
    patches = to_patches(torch.from_numpy(frames).view(-1, 2, 56, 56, 3))
    with torch.no_grad():
        stock = base[0].model.visual(patches.flatten(0, 1), torch.tensor([[64, 4, 4]])).pooler_output
        ours = encode_groups(base[0].model.visual, patches)
    assert torch.allclose(ours.flatten(0, 1), stock, atol=1e-5)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_training_ids_and_positions_are_the_gathered_ones_of_the_full_prompt(base, video, k):
    """Against the base's own `get_rope_index` on the prompt of all groups."""
    model, processor = base
    cached, frames = video
    rng = np.random.default_rng(k)
    writer = PromptWriter(processor)
    for kind in ("retrieve", "order", "count", "scenes"):
        question = ask(cached.spec, kind, rng)
        groups = np.sort(rng.choice(64, size=k, replace=False))
        batch = collate([Example(cached, question, groups)], writer, model.model.language_model.embed_tokens)
        inputs = chat(processor, question.text, frames)
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            video_grid_thw=inputs["video_grid_thw"],
        )
        is_video = inputs["input_ids"][0] == model.config.video_token_id
        keep = ~is_video
        keep[is_video.nonzero()[:, 0].view(64, 4)[torch.from_numpy(groups)].flatten()] = True
        length = int(keep.sum())
        assert torch.equal(batch["position_ids"][:, 0, :length], positions[:, 0, keep])
        assert batch["where"][0, 0] == length - 1
        ids = torch.tensor(writer.heads([question.text])[0] + writer.after)
        assert torch.equal(ids, inputs["input_ids"][0][~is_video])


def test_training_logits_at_all_groups_are_those_of_the_stock_model(base, video):
    model, processor = base
    cached, frames = video
    question = ask(cached.spec, "order", np.random.default_rng(0))
    example = Example(cached, question, np.arange(64))
    with torch.no_grad():
        ours = run_batch(model, collate([example], PromptWriter(processor), model.model.language_model.embed_tokens))[
            0
        ][0, 0]
        stock = model(**chat(processor, question.text, frames)).logits[0, -1]
    assert torch.allclose(ours, stock, atol=1e-4)


def test_exact_match_says_what_generate_says(base, video):
    model, processor = base
    cached, frames = video
    question = ask(cached.spec, "order", np.random.default_rng(0))
    inputs = chat(processor, question.text, frames)
    said = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(said[:2])
    example = Example(cached, question, np.arange(64))
    data = collate([example], PromptWriter(processor), model.model.language_model.embed_tokens)
    first = run_batch(model, data)[0].argmax(-1)[0, 0]
    assert first == said[0]
    right = exact_match(model, processor, [example])
    assert right.shape == (1,)
    assert right[0] == (answer == question.answer and said[2] == processor.tokenizer.eos_token_id)


def test_chosen_groups_are_distinct_sorted_and_mostly_enough(base):
    rng = np.random.default_rng(0)
    enough = []
    for seed in range(60):
        spec = build_video(seed, 256)
        for kind in KINDS:
            question = ask(spec, kind, rng)
            if question is not None:
                for k in (4, 8, 32):
                    groups = draw_groups(question, 128, k, rng, busy_groups(spec, 128))
                    assert len(groups) == k
                    assert (np.diff(groups) > 0).all()
                    assert groups[0] >= 0
                    assert groups[-1] < 128
                    if k >= 8:
                        enough.append(answerable(question, groups, 128))
    assert np.mean(enough) > 0.95


def test_evidence_labels_tell_new_sights_from_repeated_ones():
    spec = build_video(1, 256)
    rng = np.random.default_rng(3)
    question = next(q for q in (ask(spec, "count", rng) for _ in range(50)) if q.answer == "3")
    starts = [start // 2 for start, _ in question.spans]
    groups = np.array(sorted({starts[0], starts[0] + 1, starts[1], starts[2]}))
    status, running = evidence_labels(question, groups, 128)
    assert (status == 1).sum() == 3
    assert running[-1] == 3
    assert (np.diff(running) >= 0).all()


def test_group_labels_say_what_is_on_screen():
    spec = dense_video(0, 64)
    labels, places = group_labels(spec)
    for group in range(32):
        event = spec.event_at(2 * group) or spec.event_at(2 * group + 1)
        assert labels[group, 0] == (len(COLORS) if event is None else COLORS.index(event.color))
        assert labels[group, 1] == (len(SHAPES) if event is None else SHAPES.index(event.shape))
        assert labels[group, 2] == BACKGROUNDS.index(spec.scene_at(2 * group).background)
        assert np.isnan(places[group, 0]) == (event is None)


def test_normalised_features_are_centred_and_small(video):
    torch.manual_seed(3)
    visual = build_base(build_tokenizer(all_words())).model.visual
    frames = torch.from_numpy(video[1]).view(-1, 2, 56, 56, 3)
    normalise_features(visual, frames)
    with torch.no_grad():
        features = encode_groups(visual, to_patches(frames))
    assert features.mean((0, 1)).abs().max() < 1e-4
    assert abs(features.std() - EMBEDDING_STD) < 1e-3


def test_both_stages_learn_and_touch_only_their_own_weights(video):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(all_words())
    model, processor = build_base(tokenizer), build_processor(tokenizer)
    visual = model.model.visual
    text_before = [p.clone() for p in model.model.language_model.parameters()]
    losses = train_vision(visual, videos=2, steps=30, batch=64)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(text_before, model.model.language_model.parameters(), strict=True))
    vision_before = [p.clone() for p in visual.parameters()]
    with torch.no_grad():
        frames = torch.from_numpy(video[1]).view(-1, 2, 56, 56, 3)
        cached = CachedVideo(video[0].spec, encode_groups(visual, to_patches(frames)).half())
    losses = train_language(model, processor, [cached], steps=25, batch=8)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(vision_before, visual.parameters(), strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(text_before, model.model.language_model.parameters(), strict=True)]
    assert all(moved)
    results = evaluate_base(model, processor, [cached])
    assert set(results) == {"uniform", "event-topk", "oracle"}
    assert all(0 <= accuracy <= 1 for row in results.values() for accuracy, _ in row.values())


def test_fixed_words_stay_while_the_rest_learns(video):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(all_words())
    model, processor = build_base(tokenizer), build_processor(tokenizer)
    words = model.get_input_embeddings().weight
    before, norm = words.clone(), model.model.language_model.norm.weight.clone()
    train_language(model, processor, [video[0]], steps=2, batch=4, budgets={64: 1.0}, words_fixed=True)
    assert torch.equal(words, before)
    assert words.requires_grad
    assert not torch.equal(model.model.language_model.norm.weight, norm)


def test_examples_name_their_own_videos(video):
    rng = np.random.default_rng(0)
    example = draw_example([video[0]], 8, rng)
    assert example.video is video[0]
    assert len(example.groups) == 8
