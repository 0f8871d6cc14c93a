"""Stages: what must move moves, all else stays to the bit, and every parameter belongs to one part."""

import pytest
import torch
from family_parts import ALL_FAMILIES
from tiny_models import tiny_model
from tiny_parts import tiny_base_processor, tiny_tokenizer
from training_parts import Collator, make_trainer, mixed_rows, open_model
from transformers import AutoModelForImageTextToText

from ntlbg.training.arguments import LANGUAGE_MODEL_PROJECTIONS
from ntlbg.training.lora import with_lora
from ntlbg.training.stages import PARTS, apply_stage, part_of


OWN = {"selector", "rich_points", "transition", "span_head"}
TRAINS = {
    "selection": OWN,
    "joint": OWN | {"language_model", "embeddings"},
    "end_to_end": OWN | {"language_model", "embeddings", "merger", "vision_tower"},
    "projectors": {"merger"},
    "joint_projectors": OWN | {"language_model", "embeddings", "merger"},
}


def lora(model, stage):
    return with_lora(model, stage, r=2, alpha=4, target_modules=LANGUAGE_MODEL_PROJECTIONS)


def moved_by_training(folder, model, **kwargs):
    """Names of the parameters that three steps moved, and of those that stayed to the bit."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    make_trainer(folder, model=model, max_steps=3, loss_schedule="constant", **kwargs).train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    return moved, before.keys() - moved


@pytest.mark.parametrize("stage", sorted(TRAINS))
def test_all_that_a_stage_trains_moves_and_all_else_stays(stage, tmp_path):
    moved, stayed = moved_by_training(tmp_path, open_model(), stage=stage)
    assert {name for name in stayed if part_of(name) in TRAINS[stage]} == set()
    assert {name for name in moved if part_of(name) not in TRAINS[stage]} == set()


@pytest.mark.parametrize("stage", ["joint", "end_to_end", "joint_projectors"])
def test_with_adapters_the_bases_weights_stay_and_the_rest_of_the_stage_moves(stage, tmp_path):
    moved, stayed = moved_by_training(tmp_path, lora(open_model(), stage), stage=stage)
    parts = OWN | (set() if stage == "joint" else {"merger"})
    expected = {
        name
        for name in moved | stayed
        if ".lora_" in name or (part_of(name) in parts and ".original_module." not in name)
    }
    assert moved == expected
    assert any(".lora_" in name for name in moved)


def test_without_its_loss_the_transition_is_frozen_and_said_to_be(tmp_path):
    model = open_model()
    trainer = make_trainer(tmp_path, model=model, context_weight=0.0)
    assert "`context_weight` is 0" in trainer.stage_summary.reasons["transition"]
    moved, stayed = moved_by_training(tmp_path, model, context_weight=0.0)
    assert {name for name in stayed if part_of(name) in OWN} == {name for name in stayed if "transition" in name}
    assert not {name for name in moved if "transition" in name}


@pytest.mark.parametrize("family", ALL_FAMILIES)
@pytest.mark.parametrize("adapters", [False, True])
def test_every_parameter_of_every_family_is_in_one_part_and_accounted_for(family, adapters):
    model = tiny_model(family, tiny_base_processor(family).tokenizer, span_head=True)
    if adapters:
        model = lora(model, "end_to_end")
    summary = apply_stage(model, "end_to_end")
    counted = sum(summary.trained.values()) + sum(summary.frozen.values())
    assert counted == sum(value.numel() for value in model.parameters())
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PARTS) - {
        "scorer",
        "temporal_encoder",
        "temporal_projector",
    }
    assert summary.trained["merger"] > 0
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == sum(summary.trained.values())


def test_what_would_lie_unused_or_unsaved_is_refused():
    with pytest.raises(ValueError, match="the stage 'selection' trains no language model"):
        apply_stage(lora(open_model(), "joint"), "selection")
    with pytest.raises(ValueError, match=r"visual.merger.* should train, but is not saved with the adapters"):
        apply_stage(lora(open_model(), "joint"), "end_to_end")
    with pytest.raises(ValueError, match="belongs to none of the parts"):
        part_of("something.new.weight")
    with pytest.raises(ValueError, match="no module's name matches"):
        with_lora(open_model(), "joint", r=2, alpha=4, target_modules=r"nothing")
    with pytest.raises(ValueError, match="adapters belong into the language model alone"):
        with_lora(open_model(), "joint", r=2, alpha=4, target_modules=r".*\.(qkv|q_proj)")


def test_adapters_taken_up_again_are_the_run_that_never_stopped(tmp_path):
    """With the selector and the statistics of L_align, which are no adapters."""
    settings = {"stage": "joint", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, model=lora(open_model(), "joint"), **settings)
    whole.train()
    again = make_trainer(tmp_path, model=lora(open_model(), "joint"), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    before, after = ([line["loss"] for line in run.state.log_history if "loss" in line] for run in (whole, again))
    assert after == pytest.approx(before, rel=1e-6)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_the_runs_folder_holds_the_model_with_its_adapters_added_in(tmp_path):
    model = lora(open_model(), "end_to_end")
    trainer = make_trainer(tmp_path, model=model, stage="end_to_end", max_steps=3, save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "checkpoint-3" / "adapter_model.safetensors").is_file()
    assert not list(tmp_path.glob("adapter_*"))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert loaded.config.selector_trained
    assert not any(".lora_" in name for name, _ in loaded.named_parameters())
    batch = Collator(tiny_tokenizer())(mixed_rows(tiny_tokenizer())[:3])
    with torch.no_grad():
        ours, theirs = model.eval()(**batch), loaded(**batch)
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-4)
    for name in ("task", "ntlbg", "align", "context", "evidence"):
        torch.testing.assert_close(
            getattr(theirs, f"{name}_loss"), getattr(ours, f"{name}_loss"), rtol=1e-4, atol=1e-4
        )
