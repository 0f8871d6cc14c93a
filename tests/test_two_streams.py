"""The second stream: a video encoder sees the segment of each chosen group."""

import json
import re
from pathlib import Path

import pytest
import torch
from family_parts import ALL_FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from strangers import in_a_strangers_process, write_clip
from tiny_clips import CLIP_CONFIGS, GRID, clip_encoder, save_clip_encoder, two_streams
from tiny_encoders import save_encoder
from tiny_models import SMALL, tiny_base, tiny_model
from tiny_parts import moving_square, tiny_base_processor
from transformers import AutoModel, AutoProcessor, AutoVideoProcessor

from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.configuration.temporal_clip_ntlbg import clip_shape
from ntlbg.modeling_ntlbg.modeling_ntlbg import _PREPARED_INPUTS, NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.segments_ntlbg import segment_borders, segment_frames
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.modeling_ntlbg.temporal_stream_ntlbg import UNTRAINED_NOTE, encode_clips
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.answers import ModelError
from ntlbg.selection.video_answering import VideoAnswerer


QUESTION = "what is it?"
MESSAGES = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
GREEDY = {"max_new_tokens": 8, "do_sample": False}
M = 8  # tokens of a segment: the product of GRID


@pytest.fixture(params=ALL_FAMILIES)
def family(request):
    return request.param


def prepared_of(model, inputs, **asked):
    return model._prepare(dict.fromkeys(_PREPARED_INPUTS) | dict(inputs) | asked)


# -- off, and untrained ----------------------------------------------------------------------------------------------


def test_without_it_nothing_is_there(family):
    processor = NTLBGProcessor.from_base(tiny_base_processor(family))
    model = tiny_model(family, processor.tokenizer)
    assert not [name for name in model.state_dict() if "temporal_" in name and not name.startswith("vlm.")]
    assert model.segment_tokens == 0
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    assert "temporal_pixel_values" not in inputs
    with pytest.raises(ValueError, match="this model has no video encoder beside its base"):
        model(**inputs, temporal_pixel_values=torch.zeros(16, 3, 32, 32))


@torch.no_grad()
def test_untrained_it_leaves_the_base_to_the_bit_and_says_so(family, tmp_path):
    model, processor = two_streams(family, tmp_path, trained=False)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    assert len(inputs["temporal_pixel_values"]) == 16
    # tests/test_families.py holds this one to its base.
    plain = NTLBGForConditionalGeneration.from_base(model.vlm, config_kwargs=SMALL).eval()
    own = {name: value for name, value in inputs.items() if name != "temporal_pixel_values"}
    output = model(**inputs, num_representatives=16)
    assert torch.equal(output.logits, plain(**own, num_representatives=16).logits)
    assert UNTRAINED_NOTE in output.selections[0].notes
    answer = model.generate(**inputs, num_representatives=16, **GREEDY)
    assert torch.equal(answer, plain.generate(**own, num_representatives=16, **GREEDY))
    # Nor is anything of it asked for.
    assert torch.equal(model(**own, num_representatives=16).logits, output.logits)


# -- segments and clips ----------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 20), st.randoms(use_true_random=False))
def test_segments_are_the_whole_video_in_order_and_hold_their_groups(groups, per_group, frames, random):
    chosen = torch.tensor(sorted(random.sample(range(groups), random.randint(1, groups))))
    borders = segment_borders(chosen, groups, per_group)
    assert borders[0] == 0
    assert borders[-1] == groups * per_group
    assert (borders[:-1] <= chosen * per_group).all()
    assert ((chosen + 1) * per_group <= borders[1:]).all()
    clips = segment_frames(chosen, groups, per_group, frames)
    assert clips.shape == (len(chosen), frames)
    assert (clips >= borders[:-1, None]).all()
    assert (clips < borders[1:, None]).all()
    assert (clips.diff(dim=1) >= 0).all()


def test_segments_are_as_worked_by_hand():
    chosen = torch.tensor([1, 4])
    assert segment_borders(chosen, num_groups=6, per_group=2).tolist() == [0, 6, 12]
    assert segment_frames(chosen, 6, 2, frames=3).tolist() == [[1, 3, 5], [7, 9, 11]]
    assert segment_frames(chosen, 6, 2, frames=8)[0].tolist() == [0, 1, 1, 2, 3, 4, 4, 5]
    nearest = Selection.from_indices(chosen, torch.arange(6.0)).cells
    assert nearest.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("kind", sorted(CLIP_CONFIGS))
@torch.no_grad()
def test_a_clips_tokens_lie_where_and_when_their_pixels_do(kind):
    """Without layers a token knows its own pixels alone (and V-JEPA 2's, which have no positions, are then equal)."""
    encoder = clip_encoder(kind, num_hidden_layers=0)
    shape = clip_shape(encoder.config)
    clip = torch.zeros(1, shape.frames, 3, *shape.size)
    before = encode_clips(encoder, shape, clip)
    assert before.shape == (1, 24, 4, 4, 4)
    changed = clip.clone()
    step, row, column = 2, 1, 3
    changed[:, step * shape.frames // 4, :, row * 8 + 2, column * 8 + 5] = 1.0
    moved = (encode_clips(encoder, shape, changed) - before).abs().sum(dim=1)[0]
    assert moved.nonzero().tolist() == [[step, row, column]]


# -- in the prompt ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_segments_tokens_stand_behind_its_group_at_the_places_of_its_moments(family, tmp_path):
    model, processor = two_streams(family, tmp_path)
    frames = moving_square(16)
    inputs = processor(MESSAGES, videos=[frames])
    adapter, per_group = model.adapter, model.adapter.temporal_patch_size
    groups = 16 // per_group
    chosen = Selection.from_indices([1, 4, 6], torch.arange(groups) * 1.0)
    prepared, choices = prepared_of(model, inputs, selection=chosen)
    grid, types = inputs["video_grid_thw"], inputs["mm_token_type_ids"]
    height, width = (int(side) // adapter.merge_size for side in grid[0, 1:])
    n = height * width
    pads = adapter.find_videos(inputs["input_ids"], inputs["attention_mask"], types, grid)[0].pads

    # What the encoder itself makes of the frames of each segment.
    shape = clip_shape(model.config.temporal_config)
    clips = segment_frames(chosen.indices, groups, per_group, shape.frames)
    own = AutoVideoProcessor.from_pretrained(tmp_path)
    expected = []
    for clip in clips:
        pixels = own([torch.from_numpy(frames[clip])], input_data_format="channels_last", return_tensors="pt")
        tokens = model.temporal_encoder(pixels["pixel_values"]).last_hidden_state
        pooled = tokens.view(2, 2, 2, 2, 2, 2, -1).mean(dim=(1, 3, 5)).view(M, -1)
        expected.append(model.temporal_projector(pooled))
    tokens = choices[0].features.tokens
    assert tokens.shape[:2] == (3, n + M)
    torch.testing.assert_close(tokens[:, n:], torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(tokens[:, :n], model.encode_video(**inputs)[0].tokens[chosen.indices])

    # The prompt: each group's own placeholders, then the segment's.
    found = adapter.placeholders(prepared["input_ids"], None, prepared.get("mm_token_type_ids"))[0].nonzero().flatten()
    assert len(found) == 3 * (n + M) + adapter.trailing_tokens
    places = found[: 3 * (n + M)].view(3, n + M)
    assert (places.diff(dim=1) == 1).all()
    assert len(prepared["input_ids"][0]) == 3 * M + len(
        prepared_of(without_stream(model), inputs, selection=chosen)[0]["input_ids"][0]
    )
    everything = dict.fromkeys(_PREPARED_INPUTS) | dict(inputs)
    positions = adapter.positions(everything, inputs["attention_mask"])
    if positions is None:
        # A position is a place in the prompt, and nothing else.
        assert "position_ids" not in prepared
        return
    for number, group in enumerate(chosen.indices.tolist()):
        got = prepared["position_ids"][-3:, 0, places[number]]
        assert torch.equal(got[:, :n], positions[:, 0, pads[group]])
        sources = []
        for step in range(2):
            moment = int(clips[number][2 + 4 * step]) // per_group
            for row in range(2):
                for column in range(2):
                    cell = (2 * row + 1) * height // 4 * width + (2 * column + 1) * width // 4
                    sources.append(int(pads[moment, cell]))
        assert torch.equal(got[:, n:], positions[:, 0, sources])


def without_stream(model):
    """The same model with its second stream closed."""
    closed = NTLBGForConditionalGeneration(model.config, vlm=model.vlm, temporal_encoder=model.temporal_encoder)
    closed.load_state_dict(model.state_dict())
    closed.config = NTLBGConfig.from_dict({**model.config.to_dict(), "temporal_trained": False})
    return closed.eval()


@torch.no_grad()
def test_what_moves_between_chosen_groups_is_seen(family, tmp_path):
    """With the frames of a segment that no group shows in another order, only the second stream can tell."""
    model, processor = two_streams(family, tmp_path)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    chosen = Selection.from_indices([1, 6], torch.arange(16 // model.adapter.temporal_patch_size) * 1.0)
    before = model(**inputs, selection=chosen).logits
    shuffled = inputs["temporal_pixel_values"].clone()
    shuffled[[4, 5, 6, 7]] = shuffled[[7, 6, 5, 4]]
    after = model(**{**inputs, "temporal_pixel_values": shuffled}, selection=chosen).logits
    assert before.shape == after.shape
    assert not torch.allclose(before[0, -1], after[0, -1], atol=1e-4)


# -- answering -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_cache_beams_and_steps_by_hand_agree(family, tmp_path):
    model, processor = two_streams(family, tmp_path)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    length = inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, num_representatives=3, **GREEDY)
    assert torch.equal(answer, model.generate(**inputs, num_representatives=3, use_cache=False, **GREEDY))
    closed = without_stream(model).generate(**inputs, num_representatives=3, **GREEDY)
    assert not torch.equal(answer, closed), "a stream that changes nothing proves nothing"
    output = model(**inputs, num_representatives=3, use_cache=True)
    for token in answer[0, length:]:
        assert output.logits[0, -1].argmax() == token
        output = model(input_ids=token.view(1, 1), past_key_values=output.past_key_values, use_cache=True)
    beams = {"num_beams": 3, "num_return_sequences": 2, **GREEDY}
    on, off = (model.generate(**inputs, num_representatives=3, use_cache=cache, **beams) for cache in (True, False))
    assert torch.equal(on, off)
    assert torch.equal(on[:, :length], inputs["input_ids"].repeat(2, 1))
    # `max_length` counts the full prompt, whatever comes in or goes out.
    limited = model.generate(**inputs, num_representatives=8, max_length=length + 4, do_sample=False)
    assert limited.shape[1] == length + 4


@torch.no_grad()
def test_a_row_of_a_batch_is_the_row_alone_with_videos_of_other_lengths_or_none(family, tmp_path):
    model, processor = two_streams(family, tmp_path)
    rows = [(moving_square(16), QUESTION), (moving_square(7, seed=1), "why?"), (None, "hello")]
    texts, videos = [], []
    for frames, question in rows:
        content = [] if frames is None else [{"type": "video"}]
        content.append({"type": "text", "text": question})
        texts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
        videos += [] if frames is None else [frames]
    length = {"min_new_tokens": 8, "num_representatives": 3, **GREEDY}
    batch = model.generate(**processor(text=texts, videos=videos, padding=True, return_tensors="pt"), **length)
    for row, (frames, _) in enumerate(rows):
        clips = {} if frames is None else {"videos": [frames]}
        inputs = processor(text=[texts[row]], **clips, return_tensors="pt")
        asked = length if clips else {name: length[name] for name in length if name != "num_representatives"}
        assert torch.equal(batch[row, -8:], model.generate(**inputs, **asked)[0, -8:])


@torch.no_grad()
def test_a_second_look_and_kept_features_answer_as_one_look_does(family, tmp_path):
    model, processor = two_streams(family, tmp_path)
    frames = moving_square(15)
    inputs = processor(MESSAGES, videos=[frames])
    expected = model.generate(**inputs, num_representatives=3, return_selection=True, **GREEDY)
    selection = expected.selections[0]

    second = processor(MESSAGES, videos=[frames], selection=selection)
    assert len(second["temporal_pixel_values"]) == 3 * 8
    assert torch.equal(model.generate(**second, selection=selection, **GREEDY), expected.sequences)

    kept = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
    features = model.encode_video(**inputs)
    answer = model.generate(**kept, video_features=features, num_representatives=3, **GREEDY)
    assert torch.equal(answer, expected.sequences)
    del kept["temporal_pixel_values"]
    with pytest.raises(ValueError, match="`temporal_pixel_values` were not given"):
        model.generate(**kept, video_features=features, num_representatives=3, **GREEDY)


@torch.no_grad()
def test_of_a_file_only_what_the_segments_need_is_read_again(tmp_path):
    model, processor = two_streams("qwen2_vl", tmp_path / "encoder")
    path = tmp_path / "clip.mp4"
    write_clip(path, moving_square(64), fps=4)
    first = processor.first_look(str(path), QUESTION)
    assert "temporal_pixel_values" not in first
    selection = model.select(**first, num_representatives=3)
    second = processor(MESSAGES, videos=[str(path)], selection=selection)
    whole = processor(MESSAGES, videos=[str(path)])
    clips = segment_frames(selection.indices, selection.num_groups, 2, 8).flatten()
    assert torch.equal(second["temporal_pixel_values"], whole["temporal_pixel_values"][clips])
    assert "temporal_pixel_values" not in processor(MESSAGES, videos=[str(path)], temporal=False)


@torch.no_grad()
def test_a_budget_of_tokens_counts_those_of_segments(family, tmp_path):
    model, processor = two_streams(family, tmp_path)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    n = model.adapter.tokens_per_group(inputs["video_grid_thw"][0])
    assert model.representatives_for(inputs["video_grid_thw"][0], max_visual_tokens=3 * (n + M) - 1) == 2
    prepared, _ = prepared_of(model, inputs, max_visual_tokens=3 * (n + M))
    found = model.adapter.placeholders(prepared["input_ids"], None, prepared.get("mm_token_type_ids")).sum()
    assert int(found) == 3 * (n + M) + model.adapter.trailing_tokens


@pytest.mark.parametrize("looks", [1, 2])
def test_an_answerer_asks_it_many_questions_within_a_budget(looks, tmp_path):
    scorer = {}
    if looks == 2:
        folder = save_encoder("siglip", tmp_path / "scorer")
        scorer = {"scorer": folder, "scorer_processor": AutoProcessor.from_pretrained(folder)}
    model, processor = two_streams("qwen2_vl", tmp_path / "encoder", **scorer)
    path = tmp_path / "clip.mp4"
    write_clip(path, moving_square(64), fps=4)
    answerer = VideoAnswerer(model, processor, max_new_tokens=4)
    opened = answerer.open(str(path))
    n = model.adapter.tokens_per_group(processor(MESSAGES, videos=[str(path)])["video_grid_thw"][0])
    for question in (QUESTION, "why?"):
        answer = opened.ask(question, max_visual_tokens=3 * (n + M))
        assert answer.num_groups == 3
    with pytest.raises(ModelError, match=f"{n + M - 1}"):
        opened.ask(QUESTION, max_visual_tokens=n + M - 1)


# -- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CLIP_CONFIGS))
@torch.no_grad()
def test_every_encoder_is_taken_from_its_folder_and_saved_with_the_model(kind, tmp_path):
    folder = tmp_path / "encoder"
    model, processor = two_streams("qwen2_vl", folder, kind)
    theirs = AutoModel.from_pretrained(folder).state_dict()
    ours = model.temporal_encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    expected = model(**inputs, num_representatives=3).logits
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    again = NTLBGProcessor.from_pretrained(tmp_path / "saved")
    assert type(again.temporal_processor) is type(processor.temporal_processor)
    assert again.temporal_frames == clip_shape(model.config.temporal_config).frames
    repeated = again(MESSAGES, videos=[moving_square(16)])
    assert torch.equal(repeated["temporal_pixel_values"], inputs["temporal_pixel_values"])
    assert torch.equal(loaded(**repeated, num_representatives=3).logits, expected)


def test_it_loads_and_answers_where_the_project_is_not(tmp_path):
    model, processor = two_streams("qwen3_vl", tmp_path / "encoder", "timesformer")
    video, folder, cache = tmp_path / "clip.mp4", tmp_path / "checkpoint", tmp_path / "cache"
    cache.mkdir()
    write_clip(video, moving_square(32))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    content = [{"type": "video", "path": str(video)}, {"type": "text", "text": "what?"}]
    inputs = processor([{"role": "user", "content": content}])
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_representatives=3)
    again = tmp_path / "again"
    for place, save_to in ((folder, again), (again, None)):
        seen = in_a_strangers_process(place, video, cache, save_to=save_to)
        assert seen["modules"] == ["transformers_modules"]
        assert seen["answer"] == expected[0, inputs["input_ids"].shape[1] :].tolist()


@torch.no_grad()
def test_in_half_precision_the_projector_stays_whole(tmp_path):
    model, processor = two_streams("qwen2_vl", tmp_path)
    model = model.bfloat16()
    assert {value.dtype for value in model.temporal_projector.parameters()} == {torch.float32}
    assert {value.dtype for value in model.temporal_encoder.parameters()} == {torch.bfloat16}
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    assert model(**inputs, num_representatives=3).logits.isfinite().all()


# -- what is refused -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_told_in_a_sentence(tmp_path):
    model, processor = two_streams("qwen2_vl", tmp_path)
    inputs = processor(MESSAGES, videos=[moving_square(16)])
    for wrong in (torch.zeros(15, 3, 32, 32), torch.zeros(16, 3, 48, 32)):
        with pytest.raises(ValueError, match=r"this video encoder need 16 of \(32, 32\).*`temporal_frames=8`"):
            model(**{**inputs, "temporal_pixel_values": wrong})
    base = tiny_base_processor("qwen2_vl")
    with pytest.raises(ValueError, match="`temporal_frames` must be the number of frames"):
        NTLBGProcessor.from_base(base, temporal_processor=processor.temporal_processor)
    other = clip_encoder("timesformer", attention_type="space_only")
    vlm = tiny_base("qwen2_vl", processor.tokenizer)
    with pytest.raises(ValueError, match="'space_only', which sees one picture at a time"):
        NTLBGForConditionalGeneration.from_base(vlm, temporal=other, config_kwargs=SMALL)
    with pytest.raises(ValueError, match=r"`temporal_grid` is \(8, 4, 4\), but this video encoder gives only"):
        NTLBGForConditionalGeneration.from_base(vlm, temporal=clip_encoder("videomae"), config_kwargs=SMALL)
    with pytest.raises(ValueError, match="`temporal_grid` should be three positive numbers"):
        NTLBGConfig(temporal_grid=[2, 0, 2])
    with pytest.raises(ValueError, match=r"of type 'clip', whose tokens are not known; choose .* videomae"):
        NTLBGConfig(temporal_config={"model_type": "clip"})


def test_the_pages_code_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "two_streams.md").read_text(encoding="utf-8")
    processor = tiny_base_processor("qwen2_vl")
    tiny_base("qwen2_vl", processor.tokenizer).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    save_clip_encoder("videomae", tmp_path / "encoder")
    code = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)[1]
    code = code.replace("Qwen/Qwen2-VL-7B-Instruct", "./base").replace("MCG-NJU/videomae-base", "./encoder")
    # The tiny encoder gives fewer tokens than the default grid asks for.
    code = code.replace("temporal=encoder", "temporal=encoder, config_kwargs={'temporal_grid': (2, 2, 2)}")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "two_streams.md", "exec"), names)
    assert names["model"].temporal_encoder.config.model_type == "videomae"
    assert names["processor"].temporal_frames == 8


def test_a_config_with_it_survives_json(tmp_path):
    save_clip_encoder("vjepa2", tmp_path)
    config = NTLBGConfig(temporal_config=clip_encoder("vjepa2").config, temporal_grid=GRID)
    again = NTLBGConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.temporal_config.model_type == "vjepa2"
    assert clip_shape(again.temporal_config) == clip_shape(config.temporal_config)
    assert tuple(again.temporal_grid) == GRID
