"""The processor: the base's own inputs unchanged, plus the bare query, true times and the second look."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from odd_videos import numbered_frames, real_videos, write_video
from PIL import Image
from tiny_parts import FAMILIES, moving_square, tiny_base_processor, tiny_tokenizer
from transformers.models.auto.video_processing_auto import video_processor_class_from_name
from transformers.video_utils import VideoMetadata

from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.processors.query_text_ntlbg import query_of_messages, query_of_prompt
from ntlbg.processors.video_decoding_ntlbg import VideoError, decode_candidates, decode_frames
from ntlbg.processors.video_processing_ntlbg import NTLBGVideoProcessor


OWN_NAMES = {
    "query_input_ids",
    "query_attention_mask",
    "group_timestamps",
    "kept_group_indices",
    "kept_group_counts",
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def message(text: str = "What moves?", *videos, images=()) -> dict:
    parts = [{"type": "video", "video": v} for v in videos] + [{"type": "image", "image": i} for i in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def both(family: str, padding_side: str = "right", **kwargs):
    base = tiny_base_processor(family, padding_side)
    return base, NTLBGProcessor.from_base(base, **kwargs)


def assert_same(ours, base) -> None:
    """Everything the base gives is in `ours`, equal to the bit, and nothing but our own names is added."""
    assert set(ours) - set(base) <= OWN_NAMES
    for name, value in base.items():
        other = ours[name]
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype, name
            assert torch.equal(value, other), name
        else:
            assert list(value) == list(other), name


def pick(inputs, metadata, groups: list[int], per_group: int = 2) -> SimpleNamespace:
    """A selection of `groups`, as the model would make it from the first look `inputs`."""
    times = inputs["group_timestamps"]
    return SimpleNamespace(
        indices=torch.tensor(groups),
        num_groups=len(times),
        temporal_patch_size=per_group,
        group_timestamps=times,
        frames_indices=None if metadata is None else torch.as_tensor(metadata.frames_indices),
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """4.2 s at 25 per second; at 2 candidates per second 8 candidates."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_video(path, numbered_frames(105, 56, 84), options={"x264-params": "keyint=25:log-level=none"})


@pytest.fixture(scope="module")
def uneven_clip(tmp_path_factory):
    """Variable frame rate: five pictures in the first second, then one every 1.5 s."""
    ticks = [0, 200, 400, 600, 800] + [1000 + 1500 * n for n in range(8)]
    path = tmp_path_factory.mktemp("clips") / "uneven.mkv"
    return write_video(path, numbered_frames(13, 56, 84), ticks=ticks)


# -- the base's inputs, unchanged -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_frames_give_the_base_inputs_unchanged(family, padding_side):
    base, ours = both(family, padding_side)
    prompts = [
        base.apply_chat_template([message("What moves in here?", None)], add_generation_prompt=True),
        base.apply_chat_template([message("And here?", None, None)], add_generation_prompt=True),
        base.apply_chat_template([message("Hello.")], add_generation_prompt=True),
    ]
    videos = [moving_square(8), moving_square(5, 60, 40, seed=1), moving_square(4, seed=2)]
    metadata = [
        VideoMetadata(total_num_frames=len(v), fps=f, frames_indices=list(range(len(v))))
        for v, f in zip(videos, (2.0, 1.5, 25.0), strict=True)
    ]
    arguments = {"do_sample_frames": False, "padding": True, "return_tensors": "pt"}
    expected = base(text=list(prompts), videos=list(videos), video_metadata=metadata, **arguments)
    metadata = [
        {"total_num_frames": m.total_num_frames, "fps": m.fps, "frames_indices": list(range(m.total_num_frames))}
        for m in metadata
    ]
    result = ours(text=list(prompts), videos=list(videos), video_metadata=metadata, **arguments)
    assert_same(result, expected)
    assert result["video_grid_thw"][:, 0].tolist() == [4, 3, 2]
    times = [0, 1, 2, 3, *np.array([0, 2, 4]) / 1.5, 0, 2 / 25]
    np.testing.assert_allclose(result["group_timestamps"], times, atol=1e-6)
    assert result["group_timestamps"].dtype == torch.float32


def test_frames_without_metadata_are_timed_as_the_base_times_them(family):
    base, ours = both(family)
    prompt = base.apply_chat_template([message("What?", None)])
    expected = base(text=[prompt], videos=[moving_square(7)], do_sample_frames=False, return_tensors="pt")
    result = ours(text=[prompt], videos=[moving_square(7)], return_tensors="pt")
    assert_same(result, expected)


def test_images_and_video_together_and_neither_are_as_the_base_gives_them(family):
    base, ours = both(family)
    image = Image.fromarray(moving_square(1)[0])
    chat = [message("Same?", moving_square(4), images=[image])]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    expected = base.apply_chat_template(chat, processor_kwargs={"do_sample_frames": False}, **kwargs)
    assert_same(ours.apply_chat_template(chat, **kwargs), expected)
    for chat in ([message("Only this?", images=[image])], [message("Nothing to see.")]):
        expected = base.apply_chat_template(chat, **kwargs)
        result = ours.apply_chat_template(chat, **kwargs)
        assert_same(result, expected)
        assert not OWN_NAMES & set(result)


def test_a_file_gives_what_the_base_makes_of_its_frames(family, clip):
    base, ours = both(family)
    video = decode_candidates(clip)
    prompt = base.apply_chat_template([message("What?", None)])
    metadata = VideoMetadata(105, fps=25.0, frames_indices=video.indices.tolist())
    expected = base(
        text=[prompt], videos=[video.frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    assert_same(ours(text=[prompt], videos=[str(clip)], return_tensors="pt"), expected)


def test_settings_of_the_base_reach_the_base(family):
    base, ours = both(family)
    prompt = base.apply_chat_template([message("What?", None)])
    size = {"shortest_edge": 28 * 28, "longest_edge": 32 * 32 * 16 * (4 if family == "qwen3_vl" else 1)}
    arguments = {"do_sample_frames": False, "return_tensors": "pt"}
    for kwargs in ({"videos_kwargs": {"size": size}}, {"videos_kwargs": {"cap_pixels_per_frame": True}}):
        expected = base(text=[prompt], videos=[moving_square(4, 200, 200)], **kwargs, **arguments)
        result = ours(text=[prompt], videos=[moving_square(4, 200, 200)], **kwargs, return_tensors="pt")
        assert_same(result, expected)


def test_assistant_masks_are_the_base_s(family):
    base, ours = both(family)
    chat = [message("What?", moving_square(4)), {"role": "assistant", "content": "A square."}]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "return_assistant_tokens_mask": True}
    expected = base.apply_chat_template(chat, processor_kwargs={"do_sample_frames": False}, **kwargs)
    result = ours.apply_chat_template(chat, **kwargs)
    assert torch.equal(torch.as_tensor(result["assistant_masks"]), torch.as_tensor(expected["assistant_masks"]))
    assert torch.as_tensor(result["assistant_masks"]).sum() > 0


def test_model_input_names_tell_every_tensor(family, clip):
    _, ours = both(family)
    chat = [message("What?", str(clip), images=[Image.fromarray(moving_square(1)[0])])]
    first = ours(chat, return_metadata=True)
    second = ours(chat, selection=pick(first, first["video_metadata"][0], [0, 2]))
    for inputs in (first, second):
        assert set(inputs) - {"video_metadata"} <= set(ours.model_input_names)
    assert len(ours.model_input_names) == len(set(ours.model_input_names))


# -- sources ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_inputs(clip):
    _, ours = both("qwen2_vl")
    expected = ours([message("What?", str(clip))])
    with open(clip, "rb") as file:
        for source in (clip, clip.read_bytes(), file, io.BytesIO(clip.read_bytes()), decode_candidates(clip)):
            assert_same(ours([message("What?", source)]), expected)
            assert_same(ours([message("What?", None)], videos=source), expected)


def test_a_list_of_pictures_is_one_video_and_lists_of_lists_are_many():
    _, ours = both("qwen2_vl")
    pictures = [Image.fromarray(f) for f in moving_square(6)]
    one = ours([message("What?", pictures)])
    assert one["video_grid_thw"][:, 0].tolist() == [3]
    rows = [[message("What?", pictures)], [message("And?", pictures[:4], pictures[:2])]]
    many = ours(rows, padding=True)
    assert many["video_grid_thw"][:, 0].tolist() == [3, 2, 1]
    assert len(many["input_ids"]) == 2


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({}, 8),
        ({"candidate_fps": 5}, 21),
        ({"max_candidates": 3}, 3),
        ({"fps": 1}, 4),
        ({"num_frames": 6}, 6),
        ({"videos_kwargs": {"num_frames": 6}}, 6),
        ({"do_sample_frames": False}, 105),
    ],
)
def test_how_many_candidates_are_taken_can_be_set_per_call(clip, kwargs, count):
    _, ours = both("qwen2_vl")
    metadata = ours([message("What?", str(clip))], return_metadata=True, **kwargs)["video_metadata"][0]
    assert len(metadata.frames_indices) == count
    array_metadata = [{"total_num_frames": 105, "fps": 25.0}]
    result = ours(
        [message("What?", None)],
        videos=[numbered_frames(105, 56, 84)],
        video_metadata=array_metadata,
        return_metadata=True,
        **kwargs,
    )
    assert len(result["video_metadata"][0].frames_indices) == count


def test_metadata_tell_pictures_times_and_source(clip):
    _, ours = both("qwen2_5_vl")
    metadata = ours([message("What?", str(clip))], return_metadata=True)["video_metadata"][0]
    assert (metadata.fps, metadata.total_num_frames, metadata.height, metadata.width) == (25.0, 105, 56, 84)
    assert metadata.duration == pytest.approx(4.2)
    again = decode_frames(clip, metadata.frames_indices)
    np.testing.assert_allclose(metadata.timestamps, again.timestamps)
    assert ours.video_processor.fetch(str(clip))[0].indices.tolist() == metadata.frames_indices.tolist()


def test_times_of_a_variable_rate_are_true_in_the_output_and_in_the_prompt(uneven_clip):
    _, ours = both("qwen3_vl")
    result = ours([message("What?", str(uneven_clip))], return_metadata=True, candidate_fps=5)
    metadata = result["video_metadata"][0]
    seconds = [0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.5, 4.0, 5.5, 7.0, 8.5, 10.0, 11.5]
    np.testing.assert_allclose(metadata.timestamps, seconds, atol=1e-3)
    assert metadata.frames_indices.tolist() == list(range(13))
    np.testing.assert_allclose(result["group_timestamps"], seconds[::2], atol=1e-3)
    prompt = ours.tokenizer.decode(result["input_ids"][0])
    for first, last in [(0, 0.2), (2.5, 4.0), (8.5, 10.0), (11.5, 11.5)]:
        assert f"<{(first + last) / 2:.1f} seconds>" in prompt


def test_one_picture_is_one_group(family):
    _, ours = both(family)
    result = ours([message("What?", moving_square(1))])
    assert result["video_grid_thw"][0, 0] == 1
    assert result["group_timestamps"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("videos", "what"),
    [
        ("https://example.com/a.mp4", "addresses are not opened"),
        (3, "A video must be a path"),
        (np.zeros((8, 8, 3), np.uint8), "A video must be a path"),
    ],
)
def test_what_is_not_a_video_is_refused(videos, what):
    _, ours = both("qwen2_vl")
    with pytest.raises(VideoError, match=what):
        ours([message("What?", None)], videos=videos)


# -- the query --------------------------------------------------------------------------------------------------------


def decoded_queries(processor, inputs) -> list[str]:
    rows = zip(inputs["query_input_ids"], inputs["query_attention_mask"], strict=True)
    return [processor.tokenizer.decode(ids[mask.bool()]) for ids, mask in rows]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_query_is_the_last_user_turn_and_padded_right(padding_side):
    _, ours = both("qwen2_vl", padding_side)
    chat = [
        {"role": "system", "content": "Be brief."},
        message("What is it?", moving_square(4)),
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "And which colour has it, in one word?"},
    ]
    rows = [chat, [message("Where?", moving_square(4))], [{"role": "user", "content": "Hello."}]]
    result = ours(rows, padding=True)
    expected = ["And which colour has it, in one word?", "Where?", "Hello."]
    assert decoded_queries(ours, result) == expected
    mask = result["query_attention_mask"]
    assert (mask.diff(dim=1) <= 0).all(), "not padded on the right"
    prompts = [ours.apply_chat_template(row, add_generation_prompt=True) for row in rows]
    again = ours(text=prompts, videos=[moving_square(4)] * 2, padding=True, return_tensors="pt")
    assert torch.equal(again["query_input_ids"], result["query_input_ids"])


def test_a_given_query_replaces_the_one_found():
    _, ours = both("qwen2_vl")
    rows = [[message("Q. Options: A B C", moving_square(4))], [message("Second", moving_square(4))]]
    assert decoded_queries(ours, ours(rows, query="Who?", padding=True)) == ["Who?", "Who?"]
    assert decoded_queries(ours, ours(rows, query=["Who?", None], padding=True)) == ["Who?", "Second"]
    with pytest.raises(ValueError, match="2 rows"):
        ours(rows, query=["Who?"] * 3)


def test_a_row_without_text_has_a_masked_query():
    _, ours = both("qwen2_vl")
    result = ours([{"role": "user", "content": [{"type": "video", "video": moving_square(4)}]}])
    assert result["query_attention_mask"].tolist() == [[0]]


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        (
            "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Who?<|im_end|>\n<|im_start|>assistant\n",
            "Who?",
        ),
        ("<|im_start|>user\nA?<|im_end|>\n<|im_start|>user\nB < C | D?", "B < C | D?"),
        ("<|video_pad|>  No turns here.", "No turns here."),
        ("", ""),
    ],
)
def test_the_query_of_a_prompt_has_no_template_tokens(prompt, query):
    assert query_of_prompt(prompt) == query


def test_the_query_of_messages_joins_the_text_parts():
    chat = [message("first"), {"role": "user", "content": [{"type": "text", "text": t} for t in ("a ", "", "b")]}]
    assert query_of_messages(chat) == "a\nb"
    assert query_of_messages([{"role": "system", "content": "x"}]) == ""


def test_without_return_tensors_lists_come_back():
    base, ours = both("qwen2_vl")
    prompt = base.apply_chat_template([message("What?", None)])
    result = ours(text=[prompt], videos=[moving_square(4)])
    assert isinstance(result["input_ids"], list)
    assert isinstance(result["query_input_ids"], list)


# -- the second look --------------------------------------------------------------------------------------------------


def full_call_at_the_same_size(base, second, frames, prompt, metadata):
    """The base's own inputs of ALL frames at the grid of the second look."""
    side = base.video_processor.patch_size
    height, width = (int(n) * side for n in second["video_grid_thw"][0, 1:])
    resized = np.stack([np.asarray(Image.fromarray(f).resize((width, height))) for f in frames])
    return base(
        text=[prompt],
        videos=[resized],
        video_metadata=[metadata],
        do_resize=False,
        do_sample_frames=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("count", [8, 7])
@pytest.mark.parametrize("groups", [[1], [0, 3], [0, 1, 2, 3]])
def test_the_second_look_writes_the_prompt_of_all_groups_with_pixels_of_the_chosen(family, clip, groups, count):
    base, ours = both(family)
    first = ours([message("What?", str(clip))], return_metadata=True, num_frames=count)
    metadata = first["video_metadata"][0]
    assert len(metadata.frames_indices) == count
    selection = pick(first, metadata, groups)
    second = ours([message("What?", str(clip))], selection=selection)

    frames = decode_frames(clip, metadata.frames_indices).frames
    prompt = base.apply_chat_template([message("What?", None)], add_generation_prompt=True)
    plain = VideoMetadata(105, fps=25.0, frames_indices=metadata.frames_indices.tolist())
    full = full_call_at_the_same_size(base, second, frames, prompt, plain)
    assert set(full) <= set(second)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts"):
        if name in full:
            assert torch.equal(second[name], full[name]), name
    assert second["kept_group_indices"].tolist() == groups
    assert second["kept_group_counts"].tolist() == [len(groups)]
    assert torch.equal(second["group_timestamps"], first["group_timestamps"])
    assert torch.equal(second["query_input_ids"], first["query_input_ids"])

    # the pixels are those the base makes of the chosen groups' pictures alone
    positions = np.minimum([2 * g + step for g in groups for step in (0, 1)], count - 1)
    chosen = base.video_processor(frames[positions], do_sample_frames=False, return_tensors="pt")
    assert torch.equal(second["pixel_values_videos"], chosen["pixel_values_videos"])
    assert torch.equal(second["video_grid_thw"][:, 1:], chosen["video_grid_thw"][:, 1:])


def test_choosing_every_group_is_the_first_look_again(family, clip):
    _, ours = both(family, max_side=None)
    chat = [message("What?", str(clip))]
    first = ours(chat, return_metadata=True)
    second = ours(chat, selection=pick(first, first["video_metadata"][0], [0, 1, 2, 3]))
    for name, value in first.items():
        if name != "video_metadata":
            assert torch.equal(value, second[name]), name


def test_a_variable_rate_keeps_its_times_in_the_second_look(uneven_clip):
    _, ours = both("qwen3_vl")
    chat = [message("What?", str(uneven_clip))]
    first = ours(chat, return_metadata=True, candidate_fps=5)
    second = ours(chat, selection=pick(first, first["video_metadata"][0], [2, 6]))

    def written_times(inputs):
        return [part.split(" seconds")[0] for part in ours.tokenizer.decode(inputs["input_ids"][0]).split("<")[1:]]

    times = [t for t in written_times(first) if t[0].isdigit()]
    assert times == [t for t in written_times(second) if t[0].isdigit()]
    assert len(times) == 7


def test_several_videos_in_several_rows_have_a_selection_each(family, clip, uneven_clip):
    _, ours = both(family, "left")
    rows = [[message("A?", str(clip), str(uneven_clip))], [message("B?")], [message("C?", moving_square(6))]]
    first = ours(rows, padding=True, return_metadata=True)
    metadata = first["video_metadata"]
    parts = first["group_timestamps"].split(first["video_grid_thw"][:, 0].tolist())
    chosen = [[1, 3], [0], [0, 1, 2]]
    selections = [
        pick({"group_timestamps": t}, m, groups) for t, m, groups in zip(parts, metadata, chosen, strict=True)
    ]
    second = ours(rows, padding=True, selection=selections)
    assert second["kept_group_indices"].tolist() == [1, 3, 0, 0, 1, 2]
    assert second["kept_group_counts"].tolist() == [2, 1, 3]
    assert second["video_grid_thw"][:, 0].tolist() == first["video_grid_thw"][:, 0].tolist()
    rows_of_pixels = (second["kept_group_counts"] * second["video_grid_thw"][:, 1:].prod(dim=1)).sum()
    assert len(second["pixel_values_videos"]) == rows_of_pixels
    tokens = (second["input_ids"] == ours.video_token_id).sum()
    assert tokens == second["video_grid_thw"].prod(dim=1).sum() // 4
    with pytest.raises(ValueError, match="one selection per video"):
        ours(rows, padding=True, selection=selections[:2])


def test_a_selection_without_picture_numbers_is_placed_on_the_same_grid(clip):
    _, ours = both("qwen2_vl")
    chat = [message("What?", str(clip))]
    first = ours(chat, return_metadata=True)
    with_numbers = ours(chat, selection=pick(first, first["video_metadata"][0], [1, 2]))
    assert_same(ours(chat, selection=pick(first, None, [1, 2])), with_numbers)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"indices": torch.tensor([2, 1])}, "distinct, ascending"),
        ({"indices": torch.tensor([1, 9])}, r"within 0\.\.3"),
        ({"indices": torch.tensor([], dtype=torch.long)}, "distinct, ascending"),
        ({"num_groups": 5}, "select again"),
        ({"temporal_patch_size": 4}, "select again"),
        ({"group_timestamps": torch.arange(4.0) * 2}, "another video"),
        ({"frames_indices": torch.arange(8) * 100}, "does not have"),
        ({"frames_indices": torch.arange(8)}, "another video"),
    ],
)
def test_a_selection_that_does_not_belong_to_the_video_is_refused(clip, change, what):
    _, ours = both("qwen2_vl")
    chat = [message("What?", str(clip))]
    first = ours(chat, return_metadata=True)
    selection = pick(first, first["video_metadata"][0], [0, 1])
    vars(selection).update(change)
    with pytest.raises(ValueError, match=what):
        ours(chat, selection=selection)


def test_pictures_in_the_messages_beside_given_videos_are_refused_with_what_to_pass(clip):
    """Nothing in the messages is left unread without a word, and both given together are read."""
    _, ours = both("qwen2_vl")
    picture = Image.fromarray(moving_square(1)[0])
    chat = [message("What?", str(clip), images=[picture])]
    with pytest.raises(ValueError, match="hold 1 image, but `images=` was not given while `videos=` was"):
        ours(chat, videos=[str(clip)])
    with pytest.raises(ValueError, match="hold 1 video, but `videos=` was not given while `images=` was"):
        ours(chat, images=[picture])
    assert_same(ours(chat, images=[picture], videos=[str(clip)]), ours(chat))


def test_a_selection_without_a_video_is_refused():
    _, ours = both("qwen2_vl")
    with pytest.raises(ValueError, match="needs the video"):
        ours([message("What?")], selection=SimpleNamespace())


# -- the first look ---------------------------------------------------------------------------------------------------


def tiny_scorer_processor():
    image_processor = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 20
    return transformers.CLIPProcessor(image_processor, tokenizer)


def test_the_first_look_without_a_scorer_is_a_small_prompt(family, clip):
    _, ours = both(family, first_look_size=64)
    look = ours.first_look(str(clip), "What moves?")
    side = ours.video_processor.patch_size
    grid = look["video_grid_thw"][0].tolist()
    assert grid[0] == 4
    assert max(grid[1:]) * side <= 64 + side * 2
    assert (look["input_ids"] == ours.video_token_id).sum() == np.prod(grid) // 4
    assert decoded_queries(ours, look) == ["What moves?"]
    assert len(look["frames_indices"]) == 8
    selection = pick(look, None, [0, 2])
    selection.frames_indices = look["frames_indices"]
    second = ours([message("What moves?", str(clip))], selection=selection)
    assert second["kept_group_indices"].tolist() == [0, 2]


def test_the_first_look_with_a_scorer_shows_it_one_picture_per_group(clip):
    _, ours = both("qwen2_vl", scorer_processor=tiny_scorer_processor())
    look = ours.first_look(str(clip), "What moves?")
    video = decode_candidates(clip)
    pictures = ours.scorer_processor.image_processor(list(video.frames[::2]), return_tensors="pt")
    assert torch.equal(look["scorer_pixel_values"], pictures["pixel_values"])
    assert look["scorer_pixel_values"].shape == (4, 3, 32, 32)
    np.testing.assert_allclose(look["group_timestamps"], video.timestamps[::2])
    assert look["frames_indices"].tolist() == video.indices.tolist()
    assert look["scorer_input_ids"].shape == look["scorer_attention_mask"].shape == (1, 20)
    assert "scorer_input_ids" not in ours.first_look(str(clip))


# -- saving, loading, making ------------------------------------------------------------------------------------------


@pytest.fixture
def registered():
    """transformers knows the video processor by name, as `import ntlbg` or a checkpoint's auto_map tells it."""
    if video_processor_class_from_name("NTLBGVideoProcessor") is None:

        class SomeConfig(transformers.PreTrainedConfig):
            model_type = "some_ntlbg"

        transformers.AutoVideoProcessor.register(SomeConfig, NTLBGVideoProcessor)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("scorer", [False, True])
def test_a_saved_processor_gives_equal_outputs(family, clip, tmp_path, scorer):
    _, ours = both(
        family,
        candidate_fps=3,
        max_candidates=9,
        max_side=None,
        first_look_size=70,
        scorer_processor=tiny_scorer_processor() if scorer else None,
    )
    ours.save_pretrained(tmp_path)
    again = NTLBGProcessor.from_pretrained(tmp_path)
    assert type(again.video_processor.base) is type(ours.video_processor.base)
    assert again.to_dict() == ours.to_dict()
    assert again.video_processor.max_side is None
    chat = [message("What?", str(clip), images=[Image.fromarray(moving_square(1)[0])])]
    assert_same(again(chat), ours(chat))
    assert_same(again.first_look(str(clip), "Who?"), ours.first_look(str(clip), "Who?"))
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["video_processor"]["base_video_processor"]["video_processor_type"] == FAMILIES[family][1]


@pytest.mark.usefixtures("registered")
def test_the_video_processor_loads_alone(clip, tmp_path):
    _, ours = both("qwen3_vl", candidate_fps=3)
    ours.video_processor.save_pretrained(tmp_path)
    again = transformers.AutoVideoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, NTLBGVideoProcessor)
    expected = ours.video_processor(str(clip), return_tensors="pt")
    result = again(str(clip), return_tensors="pt")
    assert len(result["group_timestamps"]) == 7
    for name, value in expected.items():
        assert torch.equal(value, result[name])
    faster = NTLBGVideoProcessor.from_pretrained(tmp_path, candidate_fps=5)
    assert faster.candidate_fps == 5


def test_wrong_parts_are_refused_with_what_to_pass():
    base, ours = both("qwen2_vl")
    with pytest.raises(ValueError, match=r"must be one of InternVLProcessor, .*CLIPProcessor"):
        NTLBGProcessor.from_base(tiny_scorer_processor())
    with pytest.raises(ValueError, match="but got 'LlavaProcessor'"):
        NTLBGProcessor(
            base.image_processor, base.tokenizer, ours.video_processor, base_processor_class="LlavaProcessor"
        )
    with pytest.raises(ValueError, match="base_video_processor"):
        NTLBGVideoProcessor()
    with pytest.raises(ValueError, match="'NoSuchProcessor'"):
        NTLBGVideoProcessor({"video_processor_type": "NoSuchProcessor"})
    with pytest.raises(ValueError, match="first_look_size"):
        NTLBGProcessor.from_base(base, first_look_size=0)


# -- real footage -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not real_videos(), reason="the real footage is not present")
@pytest.mark.parametrize("path", real_videos(), ids=lambda p: p.name)
def test_real_footage_goes_through_both_looks(path):
    _, ours = both("qwen3_vl", max_candidates=12)
    chat = [message("What happens?", str(path))]
    first = ours(chat, return_metadata=True)
    metadata = first["video_metadata"][0]
    assert metadata.warnings == []
    groups = sorted({0, len(first["group_timestamps"]) - 1})
    second = ours(chat, selection=pick(first, metadata, groups))
    assert second["kept_group_indices"].tolist() == groups
    assert torch.equal(second["group_timestamps"], first["group_timestamps"])
