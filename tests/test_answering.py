"""Many questions to one video: what is looked at how often, what a budget of tokens holds, whose code runs."""

import json

import pytest
from tiny_encoders import save_encoder, scenes, write_video
from tiny_models import SMALL, tiny_base
from tiny_parts import FAMILIES, moving_square, tiny_base_processor

from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.answers import ModelError
from ntlbg.selection.encoders import DualEncoder, EncoderError
from ntlbg.selection.subtitles import Subtitles
from ntlbg.selection.video_answering import VideoAnswerer


QUESTIONS = ("where is the red car?", "who?", "what moves?")
MESSAGES = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTIONS[0]}]}]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder("siglip2", tmp_path_factory.mktemp("encoder")))


def scored_answerer(family: str, encoder: str, options: dict | None = None, **config_kwargs) -> VideoAnswerer:
    """A plain base of the family behind a scorer: two looks."""
    scorer, base = DualEncoder.load(encoder, "cpu"), tiny_base_processor(family, max_tokens_per_frame=16)
    model = NTLBGForConditionalGeneration.from_base(
        tiny_base(family, base.tokenizer), scorer=scorer.model, config_kwargs={**SMALL, **config_kwargs}
    )
    processor = NTLBGProcessor.from_base(base, scorer_processor=scorer.processor)
    return VideoAnswerer(model, processor, max_new_tokens=2, **(options or {}))


@pytest.mark.parametrize("selector", ["ntlbg", "uniform", "top_k"])
def test_both_looks_are_at_the_candidates_the_answerer_was_made_for(selector, encoder, tmp_path):
    video = write_video(tmp_path / "scenes.mp4", scenes())
    answerer = scored_answerer("qwen2_vl", encoder, {"selector": selector, "candidate_fps": 1.0})
    answer = answerer.open(str(video)).ask(QUESTIONS[0], 2)
    assert answer.selection.num_groups == 4
    assert all(second % 2 == 0 for second in answer.selection.timestamps.tolist())


def test_the_scorer_sees_each_group_once_however_many_questions_there_are(encoder, monkeypatch):
    answerer, frames = scored_answerer("qwen2_vl", encoder), moving_square(16)
    alone = [answerer.open(frames).ask(question, 3) for question in QUESTIONS]
    scorer, seen, asked = answerer.model.scorer, [], []
    pictures, texts = scorer.get_image_features, scorer.get_text_features
    monkeypatch.setattr(
        scorer,
        "get_image_features",
        lambda pixel_values, **inputs: seen.append(len(pixel_values)) or pictures(pixel_values=pixel_values, **inputs),
    )
    monkeypatch.setattr(
        scorer,
        "get_text_features",
        lambda input_ids, **inputs: asked.append(len(input_ids)) or texts(input_ids=input_ids, **inputs),
    )
    opened = answerer.open(frames)
    together = [opened.ask(question, 3) for question in QUESTIONS]
    assert sum(seen) == 8
    assert sum(asked) == 3
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.selection.to_dict() == other.selection.to_dict()
        assert one.selection.frames_indices.tolist() == list(range(16))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_budget_is_kept_by_what_the_second_look_encodes_and_used_as_far_as_it_goes(family, encoder, monkeypatch):
    answerer, frames = scored_answerer(family, encoder), moving_square(64, height=112, width=168)
    opened = answerer.open(frames)
    times = opened.seen["group_timestamps"]
    needed = {}
    for k in range(1, 33):
        selection = Selection.from_indices(range(k), times)
        needed[k] = len(answerer.processor(MESSAGES, videos=[frames], selection=selection)["pixel_values_videos"]) // 4
    encoded, encode = [], answerer.model.adapter.encode
    monkeypatch.setattr(
        answerer.model.adapter,
        "encode",
        lambda pixels, *rest: encoded.append(len(pixels) // 4) or encode(pixels, *rest),
    )
    for budget in (64, 100, 160):
        answer = opened.ask(QUESTIONS[0], max_visual_tokens=budget)
        assert encoded.pop() <= budget
        assert answer.num_groups == max(k for k, tokens in needed.items() if tokens <= budget)
    assert not encoded
    least = min(needed.values())
    with pytest.raises(ModelError, match=f"the budget of {least - 1} .* the least .*, {least};"):
        opened.ask(QUESTIONS[0], max_visual_tokens=least - 1)


def test_a_budget_of_the_checkpoint_itself_holds_in_both_ways_of_looking(encoder):
    frames = moving_square(16)
    scored = scored_answerer("qwen2_vl", encoder, max_visual_tokens=31)
    base = tiny_base_processor("qwen2_vl", max_tokens_per_frame=16)
    model = NTLBGForConditionalGeneration.from_base(
        tiny_base("qwen2_vl", base.tokenizer), config_kwargs={**SMALL, "max_visual_tokens": 31}
    )
    alone = VideoAnswerer(model, NTLBGProcessor.from_base(base), max_new_tokens=2)
    per_group = (
        int(base(text="<|video_pad|>", videos=[frames], return_tensors="pt")["video_grid_thw"][0, 1:].prod()) // 4
    )
    for answerer in (scored, alone):
        opened = answerer.open(frames)
        assert opened.ask(QUESTIONS[0]).num_groups == 31 // per_group < 8
        assert opened.ask(QUESTIONS[0], 2).num_groups == 2


@pytest.mark.parametrize("looks", [1, 2])
def test_what_is_said_reaches_the_model_before_the_question_and_not_the_choice(looks, encoder, monkeypatch):
    frames = moving_square(16)
    if looks == 2:
        answerer = scored_answerer("qwen2_vl", encoder)
    else:
        base = tiny_base_processor("qwen2_vl", max_tokens_per_frame=16)
        model = NTLBGForConditionalGeneration.from_base(
            tiny_base("qwen2_vl", base.tokenizer), config_kwargs=dict(SMALL)
        )
        answerer = VideoAnswerer(model, NTLBGProcessor.from_base(base), max_new_tokens=2)
    prompts, generate = [], answerer.model.generate
    monkeypatch.setattr(
        answerer.model,
        "generate",
        lambda **inputs: (
            prompts.append(answerer.processor.tokenizer.decode(inputs["input_ids"][0])) or generate(**inputs)
        ),
    )
    # 16 frames at an assumed 24 per second.
    talk = Subtitles.parse("1\n0:00.1 --> 0:00.2\nHe waves.\n\n2\n0:00.5 --> 0:00.6\nShe nods.\n")
    silent = answerer.open(frames).ask(QUESTIONS[0], 3)
    answer = answerer.open(frames, talk).ask(QUESTIONS[0], 3)
    assert answer.selection.indices.tolist() == silent.selection.indices.tolist()
    assert answer.selection.weights.tolist() == silent.selection.weights.tolist()
    assert "Subtitles" not in prompts[0]
    said = "Subtitles:\n[0.1 s] He waves.\n[0.5 s] She nods."
    assert prompts[1].index("<|vision_end|>") < prompts[1].index(said) < prompts[1].index(QUESTIONS[0])
    assert [cue.text for cues in answer.spoken for cue in cues] == ["He waves.", "She nods."]
    assert silent.spoken is None
    near = answerer.open(frames, talk, 0.0).ask(QUESTIONS[0], 1)
    assert any("left out" in note for note in near.notes)
    json.dumps(near.to_dict())


# -- whose code runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder whose code leaves `ran` beside it when it is executed."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "configuration_strange.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import PreTrainedConfig\n\n\nclass StrangeConfig(PreTrainedConfig):\n"
        "    model_type = 'strange'\n"
    )
    auto_map = {"AutoConfig": "configuration_strange.StrangeConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": auto_map}))
    return str(folder), tmp_path / "ran"


def test_code_beside_a_model_runs_only_where_it_was_allowed_also_from_a_folder(stranger):
    name, ran = stranger
    with pytest.raises(ModelError, match="--trust-remote-code") as caught:
        load_answerer(name, encoder="none", device="cpu")
    assert "\n" not in str(caught.value)
    assert not ran.exists()
    # It is a config without a model: its code runs, and it is refused all the same.
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_answerer(name, encoder="none", device="cpu", trust_remote_code=True)
    assert ran.exists()


def test_code_beside_an_encoder_never_runs(stranger):
    name, ran = stranger
    with pytest.raises(EncoderError, match="code of its own, which is never run"):
        DualEncoder.load(name, "cpu")
    assert not ran.exists()
