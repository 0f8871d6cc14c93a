"""What users of transformers do with a model: every way to generate, device maps, compilation, quantised bases."""

import importlib.util
import threading

import pytest
import torch
import transformers
from family_parts import ALL, ALL_FAMILIES, GREEDY, Family, chat, family_of, picture
from tiny_frames import FRAME_FAMILIES
from tiny_models import SMALL, tiny_model
from tiny_parts import FAMILIES, moving_square
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ntlbg.modeling_ntlbg.modeling_ntlbg import OWN_MODULES, NTLBGForConditionalGeneration
from ntlbg.selection.video_answering import VideoAnswerer


@pytest.fixture(scope="module", params=ALL_FAMILIES)
def family(request) -> Family:
    return family_of(request.param)


def two_rows(family: Family) -> tuple[dict, dict]:
    """A row of one video and one of two, as ours and as the base's inputs."""
    rows, clips = [chat(), chat("why?", videos=2)], [moving_square(12, seed=seed) for seed in range(3)]
    return family.ours(rows, videos=[clips[:1], clips[1:]], padding=True), family.bases_inputs(rows, clips)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=["beams", "sampling", "several samples"],
)
def test_beams_and_samples_are_the_bases_and_follow_the_callers_prompt(family, options):
    inputs, bases = two_rows(family)
    answers = []
    for model, given in ((family.model, {**inputs, "num_representatives": ALL}), (family.model.vlm, bases)):
        torch.manual_seed(0)
        answers.append(model.generate(**given, max_new_tokens=8, **options))
    assert torch.equal(*answers)
    pruned = family.model.generate(**inputs, num_representatives=2, max_new_tokens=8, **options)
    copies = options.get("num_return_sequences", 1)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(pruned[:, :length], inputs["input_ids"].repeat_interleave(copies, dim=0))
    assert length < pruned.shape[1] <= length + 8


@torch.no_grad()
def test_an_assistant_changes_no_word(family):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    greedy = family.model.generate(**inputs, num_representatives=3, **GREEDY)
    other = tiny_model(family.name, family.base.tokenizer, seed=7)
    drafted = []
    other.vlm.register_forward_hook(lambda *_: drafted.append(1))
    for assistant in (other.vlm, other):
        answer = family.model.generate(**inputs, num_representatives=3, assistant_model=assistant, **GREEDY)
        assert torch.equal(answer, greedy)
        assert drafted
        drafted.clear()


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision"])
def test_an_assistant_that_cannot_read_the_prompt_is_refused(name):
    family, other = family_of(name), family_of("qwen3_vl")
    inputs = family.ours(chat(), videos=[moving_square(12)])
    with pytest.raises(ValueError, match=rf"of type '{name}'.*width 64, but it is of type 'qwen3_vl'"):
        family.model.generate(**inputs, assistant_model=other.model, **GREEDY)


@torch.no_grad()
@pytest.mark.parametrize("name", FRAME_FAMILIES)
def test_a_language_model_may_assist_where_positions_are_places(name):
    family = family_of(name)
    config = transformers.Qwen2Config(
        vocab_size=len(family.base.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    writer = transformers.Qwen2ForCausalLM(config).eval()
    inputs = family.ours(chat(), videos=[moving_square(12)])
    greedy = family.model.generate(**inputs, num_representatives=3, **GREEDY)
    answer = family.model.generate(**inputs, num_representatives=3, assistant_model=writer, **GREEDY)
    assert torch.equal(answer, greedy)


@torch.no_grad()
def test_a_text_streamer_says_the_answer_word_by_word(family):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    answer = family.answer(inputs, num_representatives=3)
    streamer = transformers.TextIteratorStreamer(family.ours.tokenizer, skip_prompt=True, timeout=60)
    options = {"num_representatives": 3, "streamer": streamer, **GREEDY}
    thread = threading.Thread(target=family.model.generate, kwargs={**inputs, **options})
    thread.start()
    assert "".join(streamer) == family.ours.tokenizer.decode(answer[0])
    thread.join()


@torch.no_grad()
def test_a_static_cache_and_a_prefill_in_chunks_answer_alike(family):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    expected = family.answer(inputs, num_representatives=3)
    for options in ({"cache_implementation": "static", "disable_compile": True}, {"prefill_chunk_size": 16}):
        assert torch.equal(family.answer(inputs, num_representatives=3, **options), expected)


@torch.no_grad()
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map_places_the_model_and_its_base(family, device_map, tmp_path):
    inputs = family.ours(chat(), videos=[moving_square(12)])
    expected = family.model(**inputs, num_representatives=3).logits
    family.model.save_pretrained(tmp_path / "model")
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "model", device_map=device_map).eval()
    assert torch.equal(loaded(**inputs, num_representatives=3).logits, expected)
    family.model.vlm.save_pretrained(tmp_path / "base")
    made = NTLBGForConditionalGeneration.from_base(tmp_path / "base", device_map=device_map, config_kwargs=SMALL)
    assert {value.device.type for value in (*made.parameters(), *made.buffers())} == {loaded.device.type}
    made.generate(**inputs.to(made.device), num_representatives=3, **GREEDY)


@torch.no_grad()
def test_a_half_precision_base_reads_every_input_and_ours_stays_whole(family, tmp_path):
    family.model.save_pretrained(tmp_path)
    for dtype in (torch.bfloat16, torch.float16):
        half = NTLBGForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).eval()
        assert half.vlm.dtype == dtype
        assert half.selector.key[0].weight.dtype == half.rich_points.gate.dtype == torch.float32
        inputs = family.ours(chat(images=1), images=[[picture()]], videos=[moving_square(12)])
        bases = family.bases_inputs([chat(images=1)], [moving_square(12)], [[picture()]])
        ours = half(**inputs, num_representatives=ALL).logits
        assert torch.equal(ours, half.vlm(**bases).logits)
        assert torch.isfinite(half(**inputs, num_representatives=3).logits).all()


@torch.no_grad()
def test_a_compiled_forward_computes_the_same_and_compiles_the_base():
    family = family_of("llava_onevision")
    inputs, graphs = family.ours(chat(), videos=[moving_square(12)]), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(family.model, backend=backend)
    expected = family.model(**inputs, num_representatives=3).logits
    torch.testing.assert_close(compiled(**inputs, num_representatives=3).logits, expected)
    read = [node for graph in graphs for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
    assert len(read) >= family.model.config.get_text_config().num_hidden_layers
    torch._dynamo.reset()
    whole = torch.compile(family.model, backend=backend, fullgraph=True)
    with pytest.raises(RuntimeError, match="how many tokens the base reads depends on the choice"):
        whole(**inputs, num_representatives=3)


# -- quantised bases --------------------------------------------------------------------------------------------------


class HalvedLinear(nn.Linear):
    """A linear layer whose weights have the precision of bfloat16."""


@register_quantization_config("halved")
class HalvedConfig(QuantizationConfigMixin):
    def __init__(self, **_):
        self.quant_method, self.modules_to_not_convert = "halved", None


@register_quantizer("halved")
class HalvedQuantizer(HfQuantizer):
    """A real, if modest, quantiser: it takes the way of all others through `from_pretrained` and needs no library."""

    requires_calibration, is_trainable = False, False

    def _process_model_before_weight_loading(self, model, **_):
        kept = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        for name, module in model.named_modules():
            if type(module) is nn.Linear and not any(name == part or name.startswith(f"{part}.") for part in kept):
                module.__class__ = HalvedLinear

    def _process_model_after_weight_loading(self, model, **_):
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, HalvedLinear):
                    module.weight.copy_(module.weight.bfloat16())
        return model

    def is_serializable(self):
        return True


def quantised_linears(module: nn.Module, kind: type) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, kind)]


def check_quantised(family: Family, config, kind: type, tmp_path):
    """From a quantised base, and quantised when a checkpoint is loaded: the base is, our own parts are not, and what
    is saved is loaded as it was."""
    inputs = family.ours(chat(), videos=[moving_square(12)])
    family.model.vlm.save_pretrained(tmp_path / "base")
    family.model.save_pretrained(tmp_path / "model")
    made = NTLBGForConditionalGeneration.from_base(
        tmp_path / "base", quantization_config=config, config_kwargs={**SMALL, "span_head": True}
    )
    loaded = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=config)
    for number, model in enumerate((made, loaded)):
        model.eval()
        assert model.hf_quantizer is not None
        assert quantised_linears(model.vlm.model.language_model, kind)
        for name in OWN_MODULES:
            part = getattr(model, name, None)
            assert part is None or not quantised_linears(part, kind), name
        bases = family.bases_inputs([chat()], [moving_square(12)])
        ours = model(**inputs, num_representatives=ALL).logits
        assert torch.equal(ours, model.vlm(**bases).logits)
        expected = model(**inputs, num_representatives=3).logits
        model.save_pretrained(tmp_path / f"saved {number}")
        again = NTLBGForConditionalGeneration.from_pretrained(tmp_path / f"saved {number}").eval()
        assert quantised_linears(again, kind) == quantised_linears(model, kind)
        assert torch.equal(again(**inputs, num_representatives=3).logits, expected)
    # A selector-only checkpoint leaves it to who loads it.
    made.save_pretrained(tmp_path / "selector", selector_only=True)
    # The base is the model's own after a whole checkpoint; what is not quantised is compared all the same.
    base = str(tmp_path / "base")
    loaded.save_pretrained(tmp_path / "loaded", selector_only=True, base_name_or_path=base)
    for model in (made, loaded):
        weight = model.vlm.get_input_embeddings().weight
        before = weight[0, 0].clone()
        weight[0, 0] += 1.0
        with pytest.raises(ValueError, match=r"of the base's \d+ weights differ from those of"):
            model.save_pretrained(tmp_path / "lost", selector_only=True, base_name_or_path=base)
        weight[0, 0] = before
    for chosen in ({}, {"quantization_config": config}):
        again = NTLBGForConditionalGeneration.from_pretrained(tmp_path / "selector", **chosen).eval()
        assert quantised_linears(again, kind) == (quantised_linears(made, kind) if chosen else [])
        assert hasattr(again.config, "quantization_config") is bool(chosen)
    ours, theirs = (model(**inputs, num_representatives=3).logits for model in (again, made))
    assert torch.equal(ours, theirs)


@torch.no_grad()
def test_a_quantisation_reaches_the_base_and_nothing_of_ours(family, tmp_path):
    check_quantised(family, HalvedConfig(), HalvedLinear, tmp_path)


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes")
@torch.no_grad()
def test_bitsandbytes_quantises_the_base_and_nothing_of_ours(family, tmp_path):
    import bitsandbytes

    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    check_quantised(family, config, bitsandbytes.nn.Linear4bit, tmp_path)


@pytest.mark.skipif(bool(importlib.util.find_spec("bitsandbytes")), reason="bitsandbytes is there")
def test_without_the_library_of_a_quantisation_its_own_error_says_so(tmp_path):
    family, config = family_of("qwen2_vl"), transformers.BitsAndBytesConfig(load_in_4bit=True)
    family.model.vlm.save_pretrained(tmp_path / "base")
    family.model.save_pretrained(tmp_path / "model")
    with pytest.raises(ImportError, match="requires bitsandbytes"):
        NTLBGForConditionalGeneration.from_base(tmp_path / "base", quantization_config=config)
    with pytest.raises(ImportError, match="requires bitsandbytes"):
        NTLBGForConditionalGeneration.from_pretrained(tmp_path / "model", quantization_config=config)


# -- around the model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAME_FAMILIES)
def test_an_answerer_asks_every_base(name):
    family = family_of(name)
    answerer = VideoAnswerer(family.model, family.ours, max_new_tokens=4)
    with torch.no_grad():
        opened = answerer.open(moving_square(12))
        answer = opened.ask("what moves?", k=3)
        assert len(answer.selection) == 3
        within = opened.ask("what moves?", max_visual_tokens=2 * 4 + 1)
    assert len(within.selection) == 2


def test_a_family_without_adapter_is_refused_before_anything_is_built():
    config = transformers.LlavaConfig()
    with pytest.raises(ValueError, match=rf"'llava'.*{', '.join(sorted([*FAMILIES, *FRAME_FAMILIES]))}"):
        NTLBGForConditionalGeneration(transformers.AutoConfig.for_model("ntlbg", base_config=config))
