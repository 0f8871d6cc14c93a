"""train.py: what it takes, what it refuses in one sentence, and what a run leaves behind."""

import json

import pytest
import torch
from train_parts import ROOT, run_here, save_base, save_ntlbg, save_rows
from transformers import AutoModelForImageTextToText, AutoProcessor

from ntlbg.errors import InputError
from ntlbg.training.checkpoints import checkpoint_to_resume
from ntlbg.training.command_line import parse_command


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders: a tiny base, a tiny NTLBG model, and the path of eight rows."""
    folder = tmp_path_factory.mktemp("parts")
    return save_base(folder / "base"), save_ntlbg(folder / "ntlbg"), save_rows(folder / "data")


def write(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_file_gives_arguments_and_flags_override_them(tmp_path):
    table = {"dataset": "a.jsonl", "lora_r": 8, "learning_rate": 1e-05, "bf16": False, "save_only_model": True}
    table |= {"activation_checkpointing_kwargs": {"use_reentrant": False}, "report_to": ["none"], "video_root": None}
    yaml = "dataset: a.jsonl\nlora_r: 8\nlearning_rate: 1.0e-05\nbf16: false\nsave_only_model: true\nvideo_root:\n"
    yaml += "activation_checkpointing_kwargs: {use_reentrant: false}\nreport_to: [none]\n"
    for path in (write(tmp_path / "a.json", table), write(tmp_path / "a.yaml", yaml)):
        command = parse_command(["--config", path, "--lora_r", "4", "--output_dir", str(tmp_path)])
        model, data, training = command.arguments()
        assert (model.lora_r, data.dataset, data.video_root) == (4, "a.jsonl", None)
        assert (training.learning_rate, training.bf16, training.save_only_model) == (1e-5, False, True)
        assert training.activation_checkpointing_kwargs == {"use_reentrant": False}
        assert training.report_to == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--dataset"),
        (["--dataset", "a.jsonl", "--lora", "8"], "--lora"),
        (["--dataset", "a.jsonl", "--lora_r", "many"], "many"),
        (["--dataset", "a.jsonl", "--stages", "first"], "first"),
        (["--dataset", "a.jsonl", "--stages", "joint", "joint"], "twice"),
        (["--dataset", "a.jsonl", "--config", "missing.json"], "missing.json"),
        (["--dataset", "a.jsonl", "--stages", "joint", "--resume_from_checkpoint", "runs/7"], "runs/7"),
    ],
)
def test_wrong_flags_are_told_in_one_sentence(words, said):
    with pytest.raises(InputError, match=said) as told:
        parse_command(words)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be parsed"),
        ("[1]", "one table"),
        ({"learning_rat": 1}, "learning_rat"),
        ({"lora_r": [1, 2]}, "2"),
        ({"bf16": "perhaps"}, "perhaps"),
    ],
)
def test_wrong_files_are_told_in_one_sentence(content, said, tmp_path):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(InputError, match=said):
        parse_command(["--config", path, "--dataset", "a.jsonl"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_name_or_path": "nowhere/at/all"}, "nowhere/at/all"),
        ({"dataset": "missing.jsonl"}, "missing.jsonl"),
        ({"stage": "all"}, "`stage` should be one of"),
        ({"stage": "selection", "lora_r": 4}, "lora_r"),
        ({"stage": "joint", "lora_r": 4, "lora_target_modules": ".*nothing"}, ".*nothing"),
        ({"streaming": True}, "max_steps"),
        ({"load_in_4bit": True}, "GPU"),
        ({"frame_pixels": 100}, "frame_pixels"),
        ({"teacher_weight": 1.0}, "eager"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_dataset"),
        ({"resume_from_checkpoint": "elsewhere"}, "elsewhere"),
        ({"scorer_name_or_path": "some/clip"}, "scorer"),
        ({"num_representatives": 2, "max_visual_tokens": 9}, "each decides k"),
    ],
)
def test_what_cannot_be_trained_ends_with_2_and_one_line(changes, said, parts, tmp_path, capfd):
    _, model, dataset = parts
    values = {"model_name_or_path": model, "dataset": dataset, "output_dir": tmp_path / "out", **changes}
    assert run_here(**values) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("train.py: error: ")
    assert said in error
    assert len(error) < 600


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    assert checkpoint_to_resume(None, tmp_path) is None
    for number, state in ((5, "{}"), (10, "{}"), (15, '{"epoch'), (20, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert checkpoint_to_resume("auto", tmp_path) == str(tmp_path / "checkpoint-10")
    assert checkpoint_to_resume(str(tmp_path / "checkpoint-5"), tmp_path) == str(tmp_path / "checkpoint-5")
    with pytest.raises(InputError, match="checkpoint-20"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-20"), tmp_path)


def test_three_stages_from_a_base_are_one_command_that_goes_on_where_it_was(parts, tmp_path, capfd):
    base, _, dataset = parts
    values = {
        "config": write(tmp_path / "run.json", {"lora_r": 2, "num_representatives": 3, "max_candidates": 16}),
        "model_name_or_path": base,
        "dataset": dataset,
        "eval_split": "train",
        "max_eval_rows": 2,
        "predict_with_generate": True,
        "feature_cache": tmp_path / "features",
        "activation_checkpointing": True,
        "frame_pixels": 28 * 56,
        "max_steps": 2,
        "save_steps": 1,
        "output_dir": tmp_path / "out",
        "stages": ["selection", "joint", "end_to_end"],
    }
    assert run_here(**values) == 0
    said = capfd.readouterr().out
    for stage, trained in (("selection", "transition"), ("joint", "language model"), ("end_to_end", "merger")):
        part = said[said.index(f"stage {stage}: 2 steps") :]
        assert trained in part.split("frozen")[0], stage
    assert "dropped: nothing" in said
    assert "exact match" in said
    models = {name: AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / name) for name in values["stages"]}
    assert models["joint"].config.num_representatives == 3
    names = {name: dict(model.named_parameters()) for name, model in models.items()}
    moved = {
        (first, second): {name for name in names[first] if not torch.equal(names[first][name], names[second][name])}
        for first, second in (("selection", "joint"), ("joint", "end_to_end"))
    }
    assert any("language_model" in name for name in moved["selection", "joint"])
    assert not any(name.startswith("vlm.") and "visual" in name for name in moved["selection", "joint"])
    assert any("merger" in name for name in moved["joint", "end_to_end"])
    processor = AutoProcessor.from_pretrained(tmp_path / "out" / "end_to_end")
    assert processor.video_processor.base.size["longest_edge"] == 28 * 56

    # As if it had been stopped in the last stage: the same command trains the rest and nothing else.
    (tmp_path / "out" / "end_to_end" / "summary.json").unlink()
    assert run_here(**values) == 0
    said = capfd.readouterr().out
    assert "stage selection: done before" in said
    assert "stage end_to_end: 2 steps" in said
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "end_to_end")
    for name, value in again.named_parameters():
        assert torch.equal(value, names["end_to_end"][name]), name


def test_the_tiny_checkpoint_s_own_configuration_trains_on_rendered_videos(tmp_path, monkeypatch, capfd):
    """configuration/tiny.json as `make tiny` takes it, at a tiny scale: two videos a split, two steps."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    before = ROOT / "checkpoints" / "ntlbg-tiny"
    values = {
        "config": ROOT / "configuration" / "tiny.json",
        "model_name_or_path": before,
        "output_dir": tmp_path / "out",
        "feature_cache": tmp_path / "features",
        "dataset_config": "smoke",
        "max_eval_rows": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
    }
    assert run_here(**values) == 0
    assert "stage selection: 2 steps" in capfd.readouterr().out
    old, new = (
        dict(AutoModelForImageTextToText.from_pretrained(at).named_parameters()) for at in (before, tmp_path / "out")
    )
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved >= {"selector.query_encoder.slots", "rich_points.gate", "selector.kappa"}
    assert not any(name.startswith("vlm.") for name in moved)


@pytest.mark.parametrize("time_format", ["numbers", "tokens", "text"])
def test_the_configuration_of_moments_teaches_a_format_and_a_span_head(time_format, tmp_path, monkeypatch, capfd):
    """configuration/moments.json at a tiny scale: two videos a split, two steps; what it saves finds moments."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    values = {
        "config": ROOT / "configuration" / "moments.json",
        "model_name_or_path": ROOT / "checkpoints" / "ntlbg-tiny",
        "output_dir": tmp_path / "out",
        "feature_cache": tmp_path / "features",
        "dataset_config": "grounding-smoke",
        "time_format": time_format,
        "number_frames": time_format == "numbers",
        "max_eval_rows": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
    }
    assert run_here(**values) == 0
    assert "stage joint: 2 steps" in capfd.readouterr().out
    scores = json.loads((tmp_path / "out" / "summary.json").read_text())["scores"]
    assert scores["grounded"] == 2
    assert {"miou", "r1@0.5", "parse_failures", "loss_span"} <= set(scores)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    video = next(tmp_path.rglob("*.mp4"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    found = model.ground(**processor.first_look(str(video), "a red circle"))
    assert (found.moment_spans >= 0).all()
    assert found.moment_spans.max() <= 64
