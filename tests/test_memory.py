"""The estimator of training memory: counts are those of the real classes, bytes those that real steps hold."""

import dataclasses

import pytest
import torch
import transformers
from allocations import peak_of_allocations, saved_bytes

from ntlbg.errors import InputError
from ntlbg.evaluation.memory_run import base_config, batch, build, optimizer_for, update
from ntlbg.training.memory import FRAMEWORK_BYTES, Job, estimate_memory, layer_saved
from ntlbg.training.model_shapes import PUBLISHED, shape_of, shape_of_config
from ntlbg.training.step_time import step_time
from ntlbg.training.tiers import CARDS


# What the Hub prints for the safetensors of each published checkpoint.
ON_THE_HUB = {
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}
TEXT = {
    "vocab_size": 400,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "qwen2_vl": {"depth": 3, "embed_dim": 64, "num_heads": 4, "hidden_size": 128, "mlp_ratio": 4},
    "qwen2_5_vl": {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_heads": 4,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [2],
    },
    "qwen3_vl": {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 128,
        "deepstack_visual_indexes": [0, 1, 2],
    },
}
SMALL = {"selector_size": 32, "context_size": 32, "covariance_rank": 8}


def case_of(family: str, vocabulary: int = 400, **job) -> dict:
    side = 64 if family == "qwen3_vl" else 56
    job = {"frames": 32, "height": side, "width": side, "representatives": 8, "text_tokens": 40, **SMALL, **job}
    return {"family": family, "text": {**TEXT, "vocab_size": vocabulary}, "vision": VISION[family], "job": job}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_as_many_parameters_as_the_hub_says(name):
    assert PUBLISHED[name].parameters == ON_THE_HUB[name]
    assert shape_of(name.split("/")[1].lower()) == PUBLISHED[name]


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_by_formula_are_those_of_the_real_classes(family, tied):
    config = base_config({**case_of(family), "tied": tied})
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    shape = shape_of_config(config)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.vision_parameters == sum(parameter.numel() for parameter in model.model.visual.parameters())
    assert shape.merger_parameters == sum(
        parameter.numel() for name, parameter in model.model.visual.named_parameters() if "merger" in name
    )


@pytest.mark.parametrize(
    "job",
    [
        {"stage": "selection"},
        {},
        {"lora_r": 4},
        {"stage": "end_to_end"},
        {"stage": "end_to_end", "lora_r": 4},
        {"stage": "projectors"},
        {"stage": "joint_projectors"},
        {"stage": "joint_projectors", "lora_r": 4},
    ],
)
@pytest.mark.parametrize("family", VISION)
def test_what_a_stage_trains_is_counted_to_the_parameter(family, job):
    model, shape, job = build(case_of(family, **job))
    estimate = estimate_memory(shape, job)
    assert estimate.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert estimate.trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("job", [{"stage": "selection"}, {}], ids=["frozen", "full"])
@pytest.mark.parametrize("family", VISION)
def test_what_autograd_keeps_of_a_layer_is_what_the_formula_says(family, job, dtype):
    model, shape, job = build(case_of(family, dtype=dtype, compute=dtype, **job))
    language = model.vlm.model.language_model.to(getattr(torch, dtype))
    layer, length = language.layers[1], job.length(shape)
    hidden = torch.randn(1, length, shape.hidden, dtype=getattr(torch, dtype), requires_grad=True)
    positions = torch.arange(length).expand(3, 1, -1)
    angles = language.rotary_emb(hidden, positions)
    # The layer's input is kept in float32: as it is, or as a copy.
    inputs = [] if dtype == "float32" else [hidden]
    kept = saved_bytes(
        lambda: layer(hidden, attention_mask=None, position_embeddings=angles), [*layer.parameters(), *angles, *inputs]
    )
    assert kept == pytest.approx(layer_saved(shape, job), rel=0.03)


@pytest.mark.parametrize(
    ("family", "job"),
    [
        ("qwen2_vl", {"accumulation": 2, "vocabulary": 8000}),
        ("qwen2_vl", {"lora_r": 8, "representatives": 16, "batch": 2}),
        ("qwen2_vl", {"checkpointing": True, "representatives": 16}),
        ("qwen2_vl", {"stage": "end_to_end"}),
        ("qwen2_vl", {"attention": "eager", "text_tokens": 200, "lora_r": 8, "batch": 2}),
        ("qwen2_5_vl", {"stage": "selection", "frames": 128}),
        ("qwen2_5_vl", {"lora_r": 8, "cached_features": True, "frames": 128, "checkpointing": True}),
        ("qwen2_5_vl", {"stage": "end_to_end", "checkpointing": True, "frames": 96}),
        ("qwen3_vl", {"representatives": 16}),
        ("qwen3_vl", {"stage": "end_to_end", "lora_r": 4, "frames": 64}),
        ("qwen2_vl", {"stage": "projectors", "frames": 96}),
    ],
)
def test_the_peak_of_a_real_step_is_within_four_percent(family, job):
    case = case_of(family, **job)

    def prepare():
        model, shape, job = build(case)
        return model, batch(shape, job), job, optimizer_for(model)

    expected = estimate_memory(shape_of_config(base_config(case)), Job(**case["job"])).peak - FRAMEWORK_BYTES["cpu"]
    assert expected == pytest.approx(peak_of_allocations(prepare, lambda made: update(*made)), rel=0.04)


def test_zero_divides_what_each_stage_divides_and_offload_moves_it_to_the_host():
    shape = PUBLISHED["Qwen/Qwen2-VL-7B-Instruct"]
    one = Job(frames=64, dtype="bfloat16", compute="bfloat16", checkpointing=True, processes=8, device="cuda")

    def parts(**changes):
        return estimate_memory(shape, dataclasses.replace(one, **changes)).moments["update"]

    plain, first, second, third = (parts(zero_stage=stage) for stage in range(4))
    trained = shape.language_parameters
    assert first["optimizer states"] == pytest.approx(12 * trained / 8, rel=0.01)
    assert second["gradients"] == pytest.approx(plain["gradients"] / 8, rel=0.01)
    assert first["weights"] == second["weights"] == plain["weights"]
    assert third["weights"] == pytest.approx(plain["weights"] / 8)
    offloaded = estimate_memory(shape, dataclasses.replace(one, zero_stage=3, offload_optimizer=True))
    assert offloaded.parts.get("optimizer states", 0) == 0
    assert offloaded.host["optimizer states"] == pytest.approx(third["optimizer states"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"checkpointing": True}, "language model"),
        ({"cached_features": True}, "frames"),
        ({"lora_r": 16}, "optimizer states"),
        ({"representatives": 128}, "language model"),
        ({"answer_tokens": 4}, "logits"),
    ],
)
def test_each_measure_lowers_its_own_part_and_the_peak_does_not_rise(change, part):
    shape = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"]
    job = Job(frames=2048, representatives=256, dtype="bfloat16", compute="bfloat16", device="cuda")
    before, after = (estimate_memory(shape, dataclasses.replace(job, **extra)) for extra in ({}, change))
    totals = [sum(parts.get(part, 0) for parts in one.moments.values()) for one in (before, after)]
    assert totals[1] < totals[0]
    assert after.peak <= before.peak


def test_the_steps_operations_are_six_per_weight_and_token_and_two_more_with_checkpointing():
    shape = PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"]
    job = Job(frames=4, representatives=2, text_tokens=512, cached_features=True)
    linear = shape.layers * sum(rows * columns for rows, columns in shape.linear_shapes)
    weights = linear * job.length(shape) + shape.embedding_parameters * job.answer_tokens
    plain = step_time(shape, job, CARDS["A100_80GB"]).operations["language model"]
    assert plain == pytest.approx(6 * weights, rel=0.05)
    again = step_time(shape, dataclasses.replace(job, checkpointing=True), CARDS["A100_80GB"])
    assert again.operations["language model"] == pytest.approx(plain * 8 / 6, rel=0.06)


def test_an_ntlbg_config_has_its_bases_shape(tmp_path):
    model, shape, _ = build(case_of("qwen2_5_vl"))
    model.config.save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)) == shape_of(str(tmp_path / "config.json")) == shape


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model_type": "llama"}', '{"model_type": "qwen2_vl", "text_config": 3}']
)
def test_a_config_that_is_none_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError) as error:
        shape_of(str(tmp_path))
    assert "\n" not in str(error.value)
