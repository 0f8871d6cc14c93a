"""Training with a second stream: gradients where the stage allows, and nowhere else; what is trained is used."""

import json

import numpy as np
import pytest
import torch
from qa_parts import row, write_rows
from test_two_streams import M, prepared_of
from tiny_clips import save_clip_encoder, two_streams
from train_parts import run_here, save_base, save_rows
from training_parts import make_trainer
from transformers import AutoModelForImageTextToText, TrainerCallback

from ntlbg.cli import main
from ntlbg.data.frozen_features import FrozenFeatures
from ntlbg.data.qa_dataset import load_qa
from ntlbg.errors import InputError
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.training.arguments import LANGUAGE_MODEL_PROJECTIONS
from ntlbg.training.collator import NTLBGDataCollator
from ntlbg.training.lora import with_lora
from ntlbg.training.model_shapes import shape_of_config
from ntlbg.training.run_config import shape_and_job
from ntlbg.training.stages import PARTS, apply_stage, part_of


OWN = {"selector", "rich_points", "transition", "temporal_projector"}
TRAINS = {
    "selection": OWN,
    "joint": OWN | {"language_model", "embeddings"},
    "end_to_end": OWN | {"language_model", "embeddings", "merger", "vision_tower"},
    "projectors": {"merger", "temporal_projector"},
    "joint_projectors": OWN | {"language_model", "embeddings", "merger"},
}


class Gradients(TrainerCallback):
    """Names of the parameters that had a gradient at any step, and of those where it was not zero."""

    def __init__(self):
        self.given, self.told = set(), set()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.given.add(name)
                if parameter.grad.any():
                    self.told.add(name)


def open_streams(folder, family="qwen2_vl", **config_kwargs):
    """A model with an untrained second stream, whose zero-initialised gates are open, and its processor."""
    model, processor = two_streams(
        family, folder, trained=False, **{"num_representatives": 3, "fade_share": 0.0, **config_kwargs}
    )
    for name, value in (("candidate_fps", 2.0), ("max_candidates", 16)):
        setattr(processor.video_processor, name, value)
    with torch.no_grad():
        model.rich_points.gate.normal_()
        model.selector.kappa.fill_(0.5)
        model.expected_mean.normal_(std=0.1)
    return model, processor


def train(folder, model, processor, **kwargs):
    """Two steps over four rows of real files; the trainer, and what had gradients."""
    folder.mkdir(exist_ok=True)
    rows = load_qa(write_rows(folder, [row(0), row(1, spans=[[0, 3]]), row(2, spans=[[4, 8]]), row(3)]))
    trainer = make_trainer(folder / "run", rows=rows, model=model, loss_schedule="constant", **kwargs)
    trainer.data_collator, trainer.processing_class = NTLBGDataCollator(processor), processor
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return trainer, gradients


@pytest.mark.parametrize("stage", sorted(TRAINS))
def test_gradients_are_only_where_the_stage_allows(stage, tmp_path):
    model, processor = open_streams(tmp_path / "encoder")
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer, gradients = train(tmp_path / "data", model, processor, stage=stage)
    allowed = {name for name in before if part_of(name) in TRAINS[stage]}
    assert gradients.given == allowed
    assert gradients.told == allowed
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == allowed
    assert "video encoder is never trained" in trainer.stage_summary.reasons["temporal_encoder"]
    assert model.config.temporal_trained
    assert not any(module.training for module in model.temporal_encoder.modules())


@pytest.mark.parametrize("stage", ["joint", "end_to_end", "joint_projectors"])
def test_with_adapters_the_projector_trains_in_full_and_is_saved_with_them(stage, tmp_path):
    model, processor = open_streams(tmp_path / "encoder")
    model = with_lora(model, stage, r=2, alpha=4, target_modules=LANGUAGE_MODEL_PROJECTIONS)
    trainer, gradients = train(tmp_path / "data", model, processor, stage=stage)
    full = TRAINS[stage] - {"language_model", "embeddings", "vision_tower"}
    names = [name for name, _ in model.named_parameters()]
    allowed = {
        name for name in names if ".lora_" in name or (part_of(name) in full and ".original_module." not in name)
    }
    assert gradients.given == allowed
    assert gradients.told == allowed
    trainer.save_model()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "data" / "run").eval()
    assert loaded.config.temporal_trained
    inputs = NTLBGDataCollator(processor)([load_qa(tmp_path / "data" / "questions.jsonl")[0]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_outside_a_stage_too_the_video_encoder_has_no_gradient_and_copies_of_placeholders_no_label(tmp_path):
    model, processor = open_streams(tmp_path / "encoder", temporal_trained=True)
    write_rows(tmp_path, [row(0)])
    inputs = NTLBGDataCollator(processor)([load_qa(tmp_path / "questions.jsonl")[0]])
    inputs["labels"] = inputs["input_ids"].clone()
    output = model.train().requires_grad_(True)(**inputs)
    output.loss.backward()
    assert all(own.grad is None for own in model.temporal_encoder.parameters())
    assert all(own.grad.any() for own in model.temporal_projector.parameters())
    prepared, _ = prepared_of(model, inputs)
    visual = prepared["input_ids"] == model.config.video_token_id
    assert (prepared["labels"][visual] == -100).all()
    assert torch.equal(prepared["labels"][~visual], prepared["input_ids"][~visual])


def test_a_faded_group_is_faded_in_both_streams(tmp_path):
    """Or the evidence that a blank hides would be told by what moves in its segment."""
    model, processor = open_streams(tmp_path / "encoder", selector_trained=True, temporal_trained=True)
    write_rows(tmp_path, [row(0)])
    inputs = NTLBGDataCollator(processor)([load_qa(tmp_path / "questions.jsonl")[0]])
    model.train()
    with torch.no_grad():
        _, (shown,) = prepared_of(model, inputs)
        model.config.fade_share = 1.0
        _, (faded,) = prepared_of(model, inputs)
    tokens = shown.features.tokens
    n = tokens.shape[1] - M
    blank = tokens[:, n:].mean(dim=0)
    shares = (faded.features.tokens[:, n:] - blank) / (tokens[:, n:] - blank)
    share = float(shares.median())
    assert 0.25 <= share <= 0.75
    torch.testing.assert_close(faded.features.tokens[:, n:], blank + share * (tokens[:, n:] - blank))
    own = model.encode_video(**inputs)[0].tokens.mean(dim=0)
    torch.testing.assert_close(faded.features.tokens[:, :n], own + share * (tokens[:, :n] - own))


def test_train_py_makes_two_streams_from_a_base_and_goes_on_with_them(tmp_path, capfd):
    encoder = save_clip_encoder("vjepa2", tmp_path / "encoder")
    values = {
        "model_name_or_path": save_base(tmp_path / "base"),
        "temporal_name_or_path": encoder,
        "temporal_grid": [2, 2, 2],
        "dataset": save_rows(tmp_path / "rows"),
        "num_representatives": 3,
        "max_candidates": 16,
        "max_steps": 1,
        "output_dir": tmp_path / "out",
        "stages": ["selection", "joint"],
    }
    assert run_here(**values) == 0
    config = json.loads((tmp_path / "out" / "joint" / "config.json").read_text())
    assert config["temporal_trained"]
    assert config["temporal_config"]["model_type"] == "vjepa2"
    assert (tmp_path / "out" / "joint" / "temporal").is_dir()
    # What was made with one keeps it.
    again = {**values, "model_name_or_path": tmp_path / "out" / "joint", "output_dir": tmp_path / "more"}
    assert run_here(**again | {"stages": ["joint"]}) == 2
    assert "keeps what it was made with" in capfd.readouterr().err


def test_every_parameter_is_in_one_part_and_accounted_for(tmp_path):
    model, _ = two_streams("qwen2_vl", tmp_path, span_head=True)
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS) - {"scorer"}
    summary = apply_stage(model, "selection")
    assert summary.trained["temporal_projector"] == sum(own.numel() for own in model.temporal_projector.parameters())
    assert summary.frozen["temporal_encoder"] == sum(own.numel() for own in model.temporal_encoder.parameters())


def test_its_memory_is_not_estimated_and_that_is_said(tmp_path, capsys):
    model, _ = two_streams("qwen2_vl", tmp_path)
    with pytest.raises(InputError, match=r"second stream .* no formulas"):
        shape_of_config(model.config)
    path = tmp_path / "run.json"
    run = {"temporal_name_or_path": "MCG-NJU/videomae-base", "temporal_grid": [8, 4, 4]}
    path.write_text(json.dumps(run))
    assert main(["config", "validate", "--config", str(path)]) == 0
    assert main(["config", "validate", "--config", str(path), "--gpu", "A100_80GB"]) == 2
    assert "for the memory of a second stream there are no formulas" in capsys.readouterr().out
    with pytest.raises(InputError, match="adds a second stream, for whose memory there are no formulas"):
        shape_and_job(run)


def test_features_kept_beforehand_are_refused(tmp_path):
    model, processor = two_streams("qwen2_vl", tmp_path / "encoder")
    model.requires_grad_(False)
    with pytest.raises(InputError, match="sees other frames for every choice"):
        FrozenFeatures(tmp_path / "features", model, processor)


def passing_by(right: bool, seed: int) -> np.ndarray:
    """16 frames (N, H, W, 3) of a still background; in all but the first and last two a square goes by."""
    random = np.random.default_rng(seed)
    frames = np.repeat(random.integers(0, 96, (1, 56, 56, 3), dtype=np.uint8), 16, axis=0)
    top = int(random.integers(0, 42))
    for step in range(12):
        left = min(3 * step + int(random.integers(0, 4)), 42)
        left = left if right else 42 - left
        frames[2 + step, top : top + 14, left : left + 14] = 255
    return frames


def test_what_only_segments_show_is_learned_by_the_task_loss(tmp_path):
    """Which way it went: the two chosen groups, the first and the last, are the same for both ways."""
    model, processor = two_streams("qwen2_vl", tmp_path)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "which way?"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    words = processor.tokenizer.convert_tokens_to_ids(["a", "b"])
    ends = Selection.from_indices([0, 7], torch.arange(8.0))

    def batch(seeds) -> dict:
        # Both ways before each background, which so tells nothing.
        videos = [passing_by(way, seed) for seed in seeds for way in (False, True)]
        inputs = dict(processor(text=[prompt] * len(videos), videos=videos, return_tensors="pt"))
        # The tower is frozen, so what it sees is made once.
        inputs["video_features"] = model.encode_video(**inputs)
        return inputs

    def says(inputs) -> torch.Tensor:
        return model(**inputs, selection=[ends] * len(inputs["input_ids"])).logits[:, -1, words]

    ways = torch.arange(32) % 2
    seen, unseen = batch(range(16)), batch(range(100, 116))
    shown = [0, 1, 14, 15]
    assert np.array_equal(passing_by(True, 7)[shown], passing_by(False, 7)[shown])
    apply_stage(model, "joint", context_weight=0)
    optimizer = torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr=1e-3)
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(says(seen), ways).backward()
        optimizer.step()
    with torch.no_grad():
        assert (says(unseen).argmax(dim=-1) == ways).float().mean() >= 0.8
