"""`ntlbg config`: what it writes fits the card, what it refuses it names, and each change has its reason."""

import json
from itertools import product
from pathlib import Path

import pytest

from ntlbg.cli import main
from ntlbg.training.fit import fit, generate, usable
from ntlbg.training.run_config import deepspeed_of, find_problems, folder_of, preset, read_run
from ntlbg.training.tiers import CARDS, LEVELS, level_of


ROOT = Path(__file__).parents[1]


def run(capsys, *words):
    try:
        code = main(["config", *map(str, words)])
    except SystemExit as ended:
        code = ended.code
    return (code, *capsys.readouterr())


def one_sentence(code, out, err):
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("ntlbg: error: ")


def full(**changes) -> dict:
    """A run that trains everything, with nothing saved anywhere."""
    plain = {
        "model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct",
        "stage": "joint",
        "bf16": True,
        "num_representatives": 256,
        "max_candidates": 2048,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
    }
    return {**plain, **changes}


# -- presets and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_presets_hold_the_specifications_numbers_and_no_problem(level):
    run = preset(level.name)
    assert run["num_representatives"] == level.representatives
    assert run["max_candidates"] == level.max_frames
    assert run["per_device_train_batch_size"] == level.batch
    assert run["frame_pixels"] == 224 * 224
    assert (run["learning_rate"], run["gradient_accumulation_steps"], run["max_steps"]) == (5e-5, 32, 10000)
    assert find_problems(run) == []


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_a_preset_fits_the_card_it_is_for_with_that_cards_deepspeed_file(level):
    run = preset(level.name) | {"deepspeed": f"ds_configs/{level.card}.json"}
    assert find_problems(run, CARDS[level.card], gpus=8) == []


def test_the_specifications_levels_are_the_specifications():
    found = [
        (level.name, level.representatives, level.max_frames, level.batch, level.card) for level in LEVELS.values()
    ]
    assert found == [
        ("moderate_long", 256, 2048, 2, "V100_32GB"),
        ("long", 512, 4096, 1, "A100_40GB"),
        ("very_long", 1024, 8192, 1, "A100_80GB"),
    ]
    lengths = [299, 300, 599, 600, 1199, 1200, 10**5]
    names = [None, "moderate_long", "moderate_long", "long", "long", "very_long", "very_long"]
    assert [level and level.name for level in map(level_of, lengths)] == names


@pytest.mark.parametrize("card", CARDS)
def test_every_card_has_a_deepspeed_file_that_suits_it(card):
    content = read_run(folder_of("ds_configs") / f"{card}.json")
    assert ("bf16" in content) == CARDS[card].bf16
    assert ("fp16" in content) != CARDS[card].bf16
    zero = content["zero_optimization"]
    assert zero["stage"] == (2 if CARDS[card].memory > 60 * 2**30 else 3)
    # The weights of ZeRO-3 are gathered on saving, and the Trainer's optimizer may be offloaded.
    assert zero["stage"] == 2 or zero["stage3_gather_16bit_weights_on_model_save"]
    assert ("offload_param" in zero) == (content.get("zero_force_ds_cpu_optimizer") is False)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configuration" / "accelerate").glob("*.yaml")), ids=lambda file: file.stem
)
def test_accelerate_reads_every_file_and_its_launch_command_names_files_that_exist(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes == {"single_gpu": 1, "cpu_2_processes": 2, "multi_node": 16}.get(file.stem, 8)
    named = [word for word in file.read_text().split() if word.startswith("configuration/")]
    assert named
    assert all((ROOT / word).is_file() for word in named)


# -- generate and optimize -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "card", "gpus"), list(product(LEVELS, CARDS, [1, 8])))
def test_what_is_generated_has_no_problem_on_its_card(level, card, gpus):
    made, steps, estimate = generate(LEVELS[level], CARDS[card], gpus)
    assert estimate.peak <= usable(CARDS[card])
    assert find_problems(made, CARDS[card], gpus) == []
    # Videos of an update are not changed behind one's back.
    level = LEVELS[level]
    assert made["per_device_train_batch_size"] * made["gradient_accumulation_steps"] == 32 * level.batch
    assert (made["num_representatives"] == level.representatives) or "representatives" in steps[-1].what


def test_a_configuration_that_fits_is_left_as_it_is():
    plain = preset("long")
    made, steps, _ = fit(plain, CARDS["H200_141GB"])
    assert (made, steps) == (plain, [])


def test_measures_come_in_the_order_of_what_they_cost_and_each_lowers_the_peak():
    made, steps, estimate = fit(full(), CARDS["A100_40GB"], gpus=8)
    order = ["gradient checkpointing", "cached", "batch", "LoRA", "ZeRO-2", "ZeRO-3", "offload", "representatives"]
    places = [
        next(i for i, word in enumerate(order) if step.what.startswith(word) or word in step.what) for step in steps
    ]
    assert places == sorted(places)
    assert all(step.after < step.before for step in steps)
    assert [one.after for one in steps[:-1]] == [other.before for other in steps[1:]]
    assert steps[-1].after == estimate.peak <= usable(CARDS["A100_40GB"])
    assert made["per_device_train_batch_size"] * made["gradient_accumulation_steps"] == 32


def test_a_measure_that_changes_nothing_at_the_peak_is_left_out():
    run = full(activation_checkpointing=True, lora_r=16, per_device_train_batch_size=2)
    made, steps, _ = fit(run, CARDS["A100_40GB"])
    # Frames are gone when the backward pass begins, which is the peak: keeping features would not lower it.
    assert [step.what for step in steps] == ["batch 1, accumulation 16"]
    assert "feature_cache" not in made


def test_a_card_without_bfloat16_gets_fp16_and_no_flash_attention():
    made, _, _ = generate(LEVELS["long"], CARDS["V100_32GB"])
    assert (made["fp16"], made["bf16"], made["dtype"], made["attn_implementation"]) == (True, False, "float16", "sdpa")


def test_offload_is_read_from_the_file_a_run_names_wherever_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = deepspeed_of({"deepspeed": "ds_configs/V100_32GB.json"})
    assert found == {"zero_stage": 3, "offload_optimizer": True, "offload_weights": True}
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert deepspeed_of({"deepspeed": "own.json"})["zero_stage"] == 1


def test_what_cannot_fit_is_said_in_one_sentence_after_the_table(capsys, tmp_path):
    path = tmp_path / "huge.json"
    path.write_text(json.dumps(full(frame_pixels=2_000_000, num_representatives=512)))
    code, out, err = run(capsys, "optimize", "--config", path, "--gpu", "RTX4090_24GB", "--out", tmp_path / "o.json")
    assert "representatives" in out
    one_sentence(code, out, err)
    assert "no measure makes this fit" in err


def test_the_command_writes_a_file_that_it_then_finds_no_problem_in(capsys, tmp_path):
    out_file, picture = tmp_path / "long.json", tmp_path / "long.png"
    code, out, err = run(
        capsys,
        "generate",
        "--category",
        "long",
        "--gpu",
        "RTX4090_24GB",
        "--gpus",
        8,
        "--out",
        out_file,
        "--png",
        picture,
    )
    assert (code, err) == (0, "")
    assert "changed:" in out
    assert "language model" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(capsys, "validate", "--config", out_file, "--gpu", "RTX4090_24GB", "--gpus", 8)
    assert (code, out) == (0, "no problems on 8 x RTX4090_24GB\n")


def test_the_json_says_what_the_table_says(capsys, tmp_path):
    code, out, _ = run(capsys, "generate", "--category", "moderate_long", "--gpu", "a100_80gb", "--json", "-")
    told = json.loads(out)
    assert code == 0
    assert told["fits"] is True
    assert (
        sum(told["parts"].values())
        == pytest.approx(told["peak_bytes"])
        == pytest.approx(max(told["moments"].values()))
    )
    assert told["config"]["num_representatives"] == 256


def test_without_a_file_the_configuration_alone_is_printed_for_a_pipe(capsys):
    code, out, err = run(capsys, "generate", "--category", "long", "--gpu", "H200_141GB", "--model", "qwen3-vl-4b")
    assert code == 0
    assert json.loads(out)["model_name_or_path"] == "qwen3-vl-4b"
    assert "peak" in err


# -- validate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "card", "key", "fix"),
    [
        ({"num_representative": 4}, None, "num_representative", "num_representatives"),
        ({"learning_rate": "5e-5x"}, None, "learning_rate", "a number"),
        ({"num_representatives": True}, None, "num_representatives", "whole number"),
        ({"gradient_checkpointing": True}, None, "gradient_checkpointing", "'activation_checkpointing'"),
        ({"activation_checkpointing": "yes"}, None, "activation_checkpointing", "true or false"),
        ({"stage": "first"}, None, "stage", "end_to_end"),
        ({"num_representatives": 1025, "max_candidates": 2048}, None, "num_representatives", "2050"),
        ({"max_visual_tokens": 4096}, None, "num_representatives", "give one"),
        ({"load_in_4bit": True}, None, "load_in_4bit", "lora_r"),
        ({"fp16": True}, None, "bf16", "keep one"),
        ({"dtype": "float8"}, None, "dtype", "bfloat16"),
        ({"bf16": False, "fp16": True, "dtype": "float16"}, None, "dtype", "float32"),
        ({"dataset": "nowhere.jsonl"}, None, "dataset", "JSONL"),
        ({"video_root": "nowhere"}, None, "video_root", "create it"),
        ({"deepspeed": "nowhere.json"}, None, "deepspeed", "ds_configs/A100_40GB.json"),
        ({"feature_cache": "f", "stage": "end_to_end"}, None, "feature_cache", "joint"),
        ({}, "V100_32GB", "bf16", "fp16"),
        ({"bf16": False, "fp16": True, "dtype": "float32"}, "A100_80GB", "fp16", "bf16"),
        ({"bf16": False, "fp16": True, "dtype": "float32", "attn_implementation": "flash_attention_2"}, "V100_32GB",
         "attn_implementation", "sdpa"),
        ({}, "A100_40GB", "memory", "optimize"),
        ({"model_name_or_path": "somebody/else"}, "A100_40GB", "model_name_or_path", "Qwen"),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_its_fix(capsys, tmp_path, change, card, key, fix):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(full(**change)))
    code, out, _ = run(capsys, "validate", "--config", path, *(["--gpu", card] if card else []))
    assert code == 2
    assert len(out.splitlines()) == 1
    name, _, rest = out.partition(": ")
    assert name == key
    assert fix in rest.partition("; ")[2]


def test_all_problems_are_named_at_once_and_in_json(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lora: 3\nlearning_rate: fast\nbf16: maybe\n")
    code, out, _ = run(capsys, "validate", "--config", path, "--json", "-")
    assert code == 2
    assert [problem["key"] for problem in json.loads(out)["problems"]] == ["lora", "learning_rate", "bf16"]
