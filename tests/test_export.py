"""Checkpoints of the selector alone, adapters, shards, what does not fit, and the command that exports."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from strangers import write_clip
from tiny_clips import GRID, save_clip_encoder
from tiny_encoders import save_encoder
from tiny_models import SMALL, tiny_base
from tiny_parts import moving_square, tiny_base_processor
from train_parts import run_here, save_rows
from transformers import AutoModelForImageTextToText

from ntlbg.cli import main
from ntlbg.configuration.requirements_ntlbg import VERSION, TransformersTooOldError, check_transformers
from ntlbg.model_card import is_hub_name
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.training.arguments import LANGUAGE_MODEL_PROJECTIONS
from ntlbg.training.lora import with_lora


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with: base, wide (a larger one), other (another family), encoder, clip.mp4."""
    place = tmp_path_factory.mktemp("export")
    processor = tiny_base_processor("qwen2_vl")
    base = tiny_base("qwen2_vl", processor.tokenizer)
    base.save_pretrained(place / "base")
    processor.save_pretrained(place / "base")
    base.resize_token_embeddings(base.config.text_config.vocab_size + 8)
    base.save_pretrained(place / "wide")
    tiny_base("qwen3_vl", tiny_base_processor("qwen3_vl").tokenizer).save_pretrained(place / "other")
    save_encoder("siglip", place / "encoder")
    save_clip_encoder("videomae", place / "clips")
    write_clip(place / "clip.mp4", moving_square(32))
    return place


@pytest.fixture
def model(place):
    """In front of the base, with a gate that is open."""
    torch.manual_seed(1)
    model = NTLBGForConditionalGeneration.from_base(str(place / "base"), config_kwargs=SMALL).eval()
    with torch.no_grad():
        model.rich_points.gate.normal_()
        model.expected_mean.normal_()
    return model


@pytest.fixture(scope="module")
def processor(place):
    return NTLBGProcessor.from_base(str(place / "base"), candidate_fps=2.0)


def assert_same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def names_in(folder) -> set[str]:
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}


# The selector alone


def test_a_selector_only_checkpoint_has_no_weight_of_the_base_and_loads_to_the_bit(place, model, tmp_path):
    model.save_pretrained(tmp_path, selector_only=True)
    names = names_in(tmp_path)
    assert {name.split(".")[0] for name in names} == {
        "selector",
        "rich_points",
        "transition",
        "expected_mean",
        "expected_variance",
    }
    assert json.loads((tmp_path / "config.json").read_text())["base_name_or_path"] == str(place / "base")
    again = NTLBGForConditionalGeneration.from_pretrained(tmp_path)
    assert_same(model, again)
    assert not again.training
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    # Both are whole in memory, and are saved whole again.
    for one in (model, again):
        assert one.config.base_name_or_path is None
    again.save_pretrained(tmp_path / "whole")
    assert any(name.startswith("vlm.") for name in names_in(tmp_path / "whole"))
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path / "whole"))


def test_the_base_s_own_options_are_the_base_s(place, model, tmp_path):
    model.save_pretrained(tmp_path, selector_only=True, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager", device_map="cpu", num_representatives=5
    )
    assert again.vlm.dtype == torch.bfloat16
    assert again.config.dtype == torch.bfloat16
    assert {value.dtype for value in again.selector.parameters()} == {torch.float32}
    assert again.vlm.config.text_config._attn_implementation == "eager"
    assert again.config.num_representatives == 5
    assert torch.equal(again.rich_points.gate, model.rich_points.gate)


def test_a_scorer_and_a_temporal_encoder_are_fetched_too_where_their_names_are_known(place, tmp_path):
    model = NTLBGForConditionalGeneration.from_base(
        str(place / "base"),
        scorer=str(place / "encoder"),
        temporal=str(place / "clips"),
        config_kwargs={**SMALL, "temporal_grid": GRID},
    )
    held = {"selector", "rich_points", "transition", "temporal_projector", "expected_mean", "expected_variance"}
    model.save_pretrained(tmp_path / "named", selector_only=True)
    assert {name.split(".")[0] for name in names_in(tmp_path / "named")} == held
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path / "named"))
    model.scorer.config.name_or_path = ""
    model.save_pretrained(tmp_path / "held", selector_only=True)
    assert {name.split(".")[0] for name in names_in(tmp_path / "held")} == held | {"scorer"}
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path / "held"))


def test_trained_weights_of_the_base_are_never_left_out(model, tmp_path):
    with torch.no_grad():
        model.vlm.get_output_embeddings().weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"^1 of the base's \d+ weights differ from those of .*'vlm.lm_head.weight'"):
        model.save_pretrained(tmp_path, selector_only=True)


def test_a_base_without_a_name_is_asked_for_one(place, model, tmp_path):
    model.vlm.config.name_or_path = ""
    with pytest.raises(ValueError, match=r"needs the name of its base.*`base_name_or_path=`"):
        model.save_pretrained(tmp_path, selector_only=True)
    model.save_pretrained(tmp_path, selector_only=True, base_name_or_path=str(place / "base"))
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("base", "error", "said"),
    [
        (
            "nowhere",
            OSError,
            r"The base '.*nowhere', with which .* \(there is no such folder\); `base_name_or_path=` may name another",
        ),
        ("other", ValueError, "for a base of type 'qwen2_vl', but '.*other' is of type 'qwen3_vl'"),
        (
            "wide",
            ValueError,
            r"another base than '.*wide': 'lm_head.weight' is of shape \(\d+, 64\) in the one, \(\d+",
        ),
    ],
)
def test_a_missing_or_another_base_is_one_sentence(place, model, tmp_path, base, error, said):
    model.save_pretrained(tmp_path, selector_only=True)
    with pytest.raises(error, match=said) as told:
        NTLBGForConditionalGeneration.from_pretrained(tmp_path, base_name_or_path=str(place / base))
    assert "\n" not in str(told.value)


def test_code_that_comes_with_a_base_is_not_run(place, model, tmp_path):
    model.save_pretrained(tmp_path / "selector", selector_only=True)
    shutil.copytree(place / "base", tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "theirs.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        NTLBGForConditionalGeneration.from_pretrained(
            tmp_path / "selector", base_name_or_path=str(tmp_path / "base"), trust_remote_code=True
        )


# What does not fit


def test_missing_weights_are_refused_and_never_random(model, tmp_path):
    for part, chosen in (("whole", {}), ("selector", {"selector_only": True})):
        folder = tmp_path / part
        model.save_pretrained(folder, **chosen)
        weights = load_file(folder / "model.safetensors")
        gate = weights.pop("rich_points.gate")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        said = rf"{part}' lacks 1 weights of this model, such as 'rich_points.gate'.*saved by ntlbg {VERSION}"
        with pytest.raises(ValueError, match=said):
            NTLBGForConditionalGeneration.from_pretrained(folder)
        save_file({**weights, "rich_points.gate": gate[:-1].clone()}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"1 weights that do not fit its config, such as 'rich_points.gate'.*63"):
            NTLBGForConditionalGeneration.from_pretrained(folder)


def test_a_part_that_is_asked_for_beside_begins_untrained_and_one_that_was_saved_does_not(model, tmp_path):
    for folder, chosen in ((tmp_path / "whole", {}), (tmp_path / "selector", {"selector_only": True})):
        model.save_pretrained(folder, **chosen)
        more = NTLBGForConditionalGeneration.from_pretrained(folder, span_head=True)
        assert all(torch.isfinite(value).all() for value in more.span_head.parameters())
        assert torch.equal(more.rich_points.gate, model.rich_points.gate)
        config = json.loads((folder / "config.json").read_text()) | {"span_head": True}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"lacks \d+ weights of this model, such as 'span_head\."):
            NTLBGForConditionalGeneration.from_pretrained(folder)


def test_a_whole_checkpoint_is_not_loaded_onto_another_base(place, model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds weights of the base itself.*leave `base_name_or_path` out"):
        NTLBGForConditionalGeneration.from_pretrained(tmp_path, base_name_or_path=str(place / "base"))


def test_a_family_without_adapter_is_refused_before_its_weights_are_read(place, tmp_path):
    config = json.loads((place / "base" / "config.json").read_text()) | {"model_type": "llava"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is of type 'llava', for which there is no adapter; choose a base of type"):
        NTLBGForConditionalGeneration.from_base(str(tmp_path))


def test_a_checkpoint_carries_the_version_of_its_code(model, tmp_path):
    from importlib.metadata import version

    assert version("ntlbg") == VERSION
    model.config.ntlbg_version = "0.0.1"
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["ntlbg_version"] == VERSION
    model.config.save_pretrained(tmp_path / "config")
    assert {"config.json", "configuration_ntlbg.py", "requirements_ntlbg.py"} <= {
        path.name for path in (tmp_path / "config").iterdir()
    }


def test_transformers_releases_are_told_apart():
    for fits in ("5.23.0", "5.23.0.dev0", "5.100.1", "6.0.0"):
        check_transformers(fits)
    for old in ("5.22.4", "4.57.1"):
        with pytest.raises(TransformersTooOldError, match=f"needs transformers 5.23 or newer, but {old} is installed"):
            check_transformers(old)


# Adapters


def test_adapters_are_saved_by_peft_and_loaded_onto_a_selector_only_checkpoint(place, model, processor, tmp_path):
    from peft import PeftModel

    model.save_pretrained(tmp_path / "selector", selector_only=True)
    content = [{"type": "video", "path": str(place / "clip.mp4")}, {"type": "text", "text": "what?"}]
    inputs = processor([{"role": "user", "content": content}])
    adapted = with_lora(model, "joint", r=2, alpha=4, target_modules=LANGUAGE_MODEL_PROJECTIONS).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if ".lora_B." in name or ("modules_to_save" in name and "gate" in name):
                value.normal_(std=0.1)
        expected = adapted(**inputs, num_representatives=3).logits
    adapted.save_pretrained(tmp_path / "adapters")
    assert not any(".vlm.model.visual." in name for name in names_in(tmp_path / "adapters"))
    below = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "selector")
    with torch.no_grad():
        before = below(**inputs, num_representatives=3).logits
        after = PeftModel.from_pretrained(below, tmp_path / "adapters").eval()(**inputs, num_representatives=3).logits
    assert not torch.allclose(before, expected)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


def test_a_run_s_adapters_go_onto_the_selector_only_checkpoint_it_began_with(place, model, processor, tmp_path):
    from peft import PeftModel

    model.save_pretrained(tmp_path / "selector", selector_only=True)
    processor.save_pretrained(tmp_path / "selector")
    rows = save_rows(tmp_path / "rows")
    values = {
        "stage": "joint",
        "lora_r": 2,
        "max_steps": 2,
        "save_steps": 2,
        "num_representatives": 3,
        "max_candidates": 16,
    }
    run = tmp_path / "run"
    assert run_here(model_name_or_path=tmp_path / "selector", dataset=rows, output_dir=run, **values) == 0
    whole = NTLBGForConditionalGeneration.from_pretrained(run)
    below = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "selector", selector_trained=True)
    adapted = PeftModel.from_pretrained(below, run / "checkpoint-2").eval()
    content = [{"type": "video", "path": str(place / "clip.mp4")}, {"type": "text", "text": "what?"}]
    inputs = processor([{"role": "user", "content": content}])
    with torch.no_grad():
        ours, theirs = (one(**inputs, num_representatives=3).logits for one in (adapted, whole))
        before = model(**inputs, num_representatives=3).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not torch.allclose(before, theirs, rtol=0, atol=1e-3)
    # What it trained of the base is not to be had from anywhere else.
    with pytest.raises(ValueError, match=r"of the base's .* weights differ from those of"):
        whole.save_pretrained(tmp_path / "lost", selector_only=True, base_name_or_path=str(place / "base"))


# The command


def exported(capsys, *words) -> tuple[int, str, str]:
    code = main(["export", *map(str, words)])
    return code, *capsys.readouterr()


def test_export_writes_weights_code_processor_and_card(place, model, processor, tmp_path, capsys):
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    row = {"accuracy": {"retrieve": 50.0}, "macro": 50.0, "events": 50.0, "ours_less": [-1.0, 1.0]}
    figures = {
        "selectors": {name: {"8": row} for name in ("ntlbg", "uniform", "top_k")},
        "kinds": {"retrieve": 4},
        "groups": [8],
        "videos": 4,
        "seconds": 256,
        "candidates": 256,
        "candidate_fps": 1.0,
        "split": "test",
        "commit": "c0ffee",
        "machine": "a CPU",
        "command": "python -m ntlbg.evaluation.frames_benchmark --videos 4",
    }
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    words = ["--selector-only", "--figures", tmp_path / "figures.json", "--license", "mit"]
    code, said, _ = exported(capsys, tmp_path / "saved", tmp_path / "out", *words)
    assert code == 0
    assert said.startswith(f"wrote {tmp_path / 'out'}: ")
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path / "out"))
    assert NTLBGProcessor.from_pretrained(tmp_path / "out").tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit\n" in card
    assert "- type: exact_match\n      value: 50.0\n" in card
    assert "`python -m ntlbg.evaluation.frames_benchmark --videos 4`" in card
    assert str(tmp_path) not in card
    # The card goes along where nothing else was measured.
    code, _, _ = exported(capsys, tmp_path / "out", tmp_path / "whole", "--quiet")
    assert code == 0
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "value: 50.0\n" in card
    # Under its own name.
    assert "\n# whole\n" in card
    assert "- name: whole\n" in card
    assert card.count('from_pretrained("whole", trust_remote_code=True)') == 2
    assert '"out"' not in card
    assert "# out" not in card
    assert_same(model, NTLBGForConditionalGeneration.from_pretrained(tmp_path / "whole"))


def test_a_card_invents_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("../base", "./base", "runs/base", "base", "a/b/c", "/a", "them/"):
        assert not is_hub_name(name), name
    assert is_hub_name("Qwen/Qwen2-VL-7B-Instruct")


def test_what_cannot_be_exported_is_one_sentence(place, model, processor, tmp_path, capsys):
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    (tmp_path / "figures.json").write_text("[]")
    (tmp_path / "broken.json").write_text('{"selectors": {}, "kinds": {}, "groups": [8], "command": "x"}')
    (tmp_path / "text.json").write_text('{"stage": "joint", "steps": 2, "scores": {"loss": "low"}}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    saved, out = tmp_path / "saved", tmp_path / "out"
    for words, told in (
        (["nowhere/at-all", out], "the checkpoint 'nowhere/at-all' cannot be loaded"),
        ([place / "base", out], "is no NTLBG checkpoint"),
        ([saved, tmp_path / "full"], "not an empty folder"),
        ([saved, out, "--base", "them/base"], "--selector-only"),
        ([saved, out, "--private"], "--push-to"),
        ([saved, out, "--push-to", "mine"], "give OWNER/NAME"),
        ([saved, out, "--figures", tmp_path / "broken.json"], "are incomplete, or not of the types"),
        ([saved, out, "--figures", tmp_path / "text.json"], "are incomplete, or not of the types"),
        ([saved, out, "--figures", tmp_path / "none.json"], "none.json' cannot be read"),
        ([saved, out, "--figures", tmp_path / "figures.json"], "are of no kind that is known"),
        ([saved, out, "--selector-only", "--base", place / "wide"], "made for another base"),
        ([saved, out, "--selector-only", "--base", place / "nowhere"], "cannot be fetched"),
        ([saved, out, "--max-shard-size", "large"], "--max-shard-size"),
    ):
        code, said, error = exported(capsys, *words)
        assert (code, said) == (2, ""), words
        assert told in error, words
        assert error.startswith("ntlbg: error: ")
        assert error.count("\n") == 1
        assert not out.exists() or not any(out.iterdir()), words
