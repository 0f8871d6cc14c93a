"""The recipes run through train.py as they stand, and train exactly what their papers train."""

import json

import pytest
from qa_parts import row, write_rows
from tiny_clips import GRID, save_clip_encoder
from tiny_parts import tiny_tokenizer
from train_parts import ROOT, run_here, save_base
from transformers import AutoModelForImageTextToText

import train
from ntlbg.training.arguments import NTLBGTrainingArguments
from ntlbg.training.stages import OWN_PARTS, is_adapter, part_of
from ntlbg.training.trainer import NTLBGTrainer


RECIPES = ROOT / "configuration" / "recipes"
GROUNDED = [f"grounded_videollm_{stage}" for stage in (1, 2, 3)]

# What a test machine has not, or has no time for.
SMALLER = {
    "use_cpu": True,
    "bf16": False,
    "dtype": "float32",
    "dataloader_num_workers": 0,
    "gradient_accumulation_steps": 1,
    "max_steps": 2,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    # Two steps of a warmup would begin at 0.
    "lr_scheduler_type": "constant",
    "warmup_steps": None,
}


class Watched(NTLBGTrainer):
    """Notes which parameters got a gradient, and which one that is not zero everywhere."""

    seen: list["Watched"] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.given, self.reached = set(), set()
        Watched.seen.append(self)

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.given.add(name)
                if parameter.grad.any():
                    self.reached.add(name)
        return loss


@pytest.fixture
def trainers(monkeypatch) -> list[Watched]:
    monkeypatch.setattr(train, "NTLBGTrainer", Watched)
    monkeypatch.setattr(Watched, "seen", [])
    return Watched.seen


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    rows = [row(number, spans=[[number, number + 2.0]], answer_type="moment") for number in range(4)]
    return write_rows(tmp_path_factory.mktemp("rows"), rows)


def recipe(name: str) -> dict:
    return json.loads((RECIPES / f"{name}.json").read_text())


def run_recipe(name: str, model: str, data: str, folder, **changes) -> Watched:
    """Two steps of a recipe on a tiny model; its trainer."""
    code = run_here(
        config=RECIPES / f"{name}.json",
        model_name_or_path=model,
        dataset=data,
        output_dir=folder,
        # of the tests, but the recipe's count here
        per_device_train_batch_size=None,
        learning_rate=None,
        seed=None,
        **SMALLER | changes,
    )
    assert code == 0
    return Watched.seen[-1]


def rates(trainer: Watched) -> dict[str, float]:
    """The learning rate of each part's trained parameters."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            found["lora" if ".lora_" in name else part_of(name)] = group["lr"]
    return found


def expected(trainer: Watched, *, merger: bool, own: tuple[str, ...], lora: bool, tokens: bool) -> set[str]:
    """The names that should get gradients."""
    names = set()
    for name, _ in trainer.model.named_parameters():
        part, original = part_of(name), ".original_module." in name
        if part in own or (merger and part == "merger"):
            names |= set() if original else {name}
        elif is_adapter(name):
            names |= {name} if (tokens if part == "embeddings" else lora) else set()
    return names


def test_numpro_trains_adapters_of_the_language_model_and_no_tower(trainers, data, tmp_path):
    trainer = run_recipe("numpro_ft", save_base(tmp_path / "base"), data, tmp_path / "run")
    assert trainer.given == expected(trainer, merger=False, own=OWN_PARTS, lora=True, tokens=False)
    adapters = {name for name in trainer.given if ".lora_" in name}
    assert adapters <= trainer.reached
    config = trainer.model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (64, 128, 0.05)
    assert set(rates(trainer).values()) == {1e-4}
    assert trainer.processing_class.video_processor.number_frames
    assert trainer.data_collator.grounding.time_format == "numbers"
    # every linear map of the language model, and nothing else
    layers = {name.split(".lora_")[0] for name in adapters}
    linear = {n for n, m in trainer.model.named_modules() if n.endswith("_proj") and "language_model" in n}
    assert layers == linear


def test_grounded_videollm_trains_in_three_stages_each_from_the_last(trainers, data, tmp_path):
    model = save_base(tmp_path / "base")
    # the second stream begins with the first stage; the next ones find it in their checkpoint
    begun = {"temporal_name_or_path": save_clip_encoder("videomae", tmp_path / "encoder"), "temporal_grid": list(GRID)}
    for name in GROUNDED:
        model = str(run_recipe(name, model, data, tmp_path / name, **begun).args.output_dir)
        begun = {}
    first, second, third = trainers
    both = expected(first, merger=True, own=("temporal_projector",), lora=False, tokens=False)
    assert first.given == first.reached == both
    assert {part_of(name) for name in both} == {"merger", "temporal_projector"}
    assert rates(first) == {"merger": 1e-5, "temporal_projector": 1e-3}
    for stage in (second, third):
        assert stage.given == expected(stage, merger=True, own=OWN_PARTS, lora=True, tokens=True)
        paths = ("merger", "temporal_projector")
        assert {name for name in stage.given if is_adapter(name) or part_of(name) in paths} <= stage.reached
        config = stage.model.peft_config["default"]
        assert (config.r, config.lora_alpha, config.lora_dropout) == (128, 256, 0.05)
        assert len(config.trainable_token_indices["vlm.model.language_model.embed_tokens"]) == 302
        assert {part: rate for part, rate in rates(stage).items() if part in ("lora", "embeddings", "merger")} == {
            "lora": 2e-4,
            "embeddings": 2e-5,
            "merger": 2e-5,
        }
    # a selector that did not train is not used as if it had
    loaded = [AutoModelForImageTextToText.from_pretrained(tmp_path / name) for name in GROUNDED]
    assert [one.config.selector_trained for one in loaded] == [False, True, True]
    assert [one.config.temporal_trained for one in loaded] == [True, True, True]
    size = len(tiny_tokenizer())
    assert [one.get_input_embeddings().weight.shape[0] for one in loaded] == [size, size + 302, size + 302]
    # the words of the base stay in all three
    for one in loaded[1:]:
        old = loaded[0].get_input_embeddings().weight
        assert (one.get_input_embeddings().weight[:size] == old).all()


def test_the_constants_are_the_papers():
    numpro, (first, second, third) = recipe("numpro_ft"), map(recipe, GROUNDED)
    constant = ("stage", "num_train_epochs", "learning_rate", "lora_learning_rate", "merger_learning_rate")
    assert [[one.get(name) for name in constant] for one in (numpro, first, second, third)] == [
        ["joint", 3, 1e-4, None, None],
        ["projectors", 1, 1e-3, None, 1e-5],
        ["joint_projectors", 3, 2e-5, 2e-4, None],
        ["joint_projectors", 1, 2e-5, 2e-4, None],
    ]
    # on eight cards
    batches = [
        8 * one["per_device_train_batch_size"] * one["gradient_accumulation_steps"] for one in (first, second, third)
    ]
    assert batches == [256, 128, 96]
    assert [one["warmup_steps"] for one in (numpro, first, second, third)] == [0.05, 0.03, 0.03, 0.03]
    assert {one["lr_scheduler_type"] for one in (numpro, first, second, third)} == {"cosine"}
    assert [one["model_name_or_path"] for one in (second, third)] == [one["output_dir"] for one in (first, second)]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_a_recipe_is_a_run_that_can_be_asked_for(path, tmp_path):
    from ntlbg.training.command_line import parse_command

    command = parse_command(["--config", str(path), "--dataset", "rows.jsonl", "--bf16", "false", "--use_cpu", "true"])
    _, _, args = command.arguments(output_dir=str(tmp_path))
    assert isinstance(args, NTLBGTrainingArguments)
