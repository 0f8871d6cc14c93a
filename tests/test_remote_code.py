"""A saved checkpoint carries its code: it loads where the project has never been seen."""

import pytest
import torch
from family_parts import ALL_FAMILIES
from strangers import in_a_strangers_process, write_clip
from tiny_models import tiny_model
from tiny_parts import moving_square, tiny_base_processor
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from ntlbg.processors.processing_ntlbg import NTLBGProcessor


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_fresh_process_off_our_path_loads_and_answers_alike(family, tmp_path):
    processor = NTLBGProcessor.from_base(tiny_base_processor(family), candidate_fps=2.0)
    model = tiny_model(family, processor.tokenizer)
    video, folder, cache = tmp_path / "clip.mp4", tmp_path / "checkpoint", tmp_path / "cache"
    cache.mkdir()
    write_clip(video, moving_square(64))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    messages = [
        {"role": "user", "content": [{"type": "video", "path": str(video)}, {"type": "text", "text": "what?"}]}
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    expected = model.generate(
        **inputs, max_new_tokens=6, do_sample=False, num_representatives=3, return_selection=True
    )
    answer = expected.sequences[0, inputs["input_ids"].shape[1] :].tolist()

    again = tmp_path / "again"
    # Saved again there, it carries its code on; that does not depend on the family.
    for place, save_to in ((folder, again), (again, None)) if family == "qwen3_vl" else ((folder, None),):
        seen = in_a_strangers_process(place, video, cache, save_to=save_to)
        assert seen["modules"] == ["transformers_modules"]
        assert seen["classes"] == [
            "NTLBGConfig",
            "NTLBGProcessor",
            "NTLBGVideoProcessor",
            "NTLBGForConditionalGeneration",
        ]
        assert seen["answer"] == answer
        assert seen["indices"] == expected.selections[0].indices.tolist()
        torch.testing.assert_close(seen["seconds"], expected.selections[0].timestamps.tolist())


def test_only_the_code_a_checkpoint_needs_travels(tmp_path):
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    tiny_model("qwen2_vl", processor.tokenizer).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.glob("*.py")}
    assert {"configuration_ntlbg.py", "modeling_ntlbg.py", "processing_ntlbg.py"} <= names
    assert all(name.endswith("_ntlbg.py") for name in names)
    assert not any(
        "ntlbg." in line
        for path in tmp_path.glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from ", "import "))
    )


def test_each_file_that_is_asked_for_names_all_that_it_needs(tmp_path):
    """Older releases copy of a local folder no more than that, and could not even say that they are too old."""
    processor = NTLBGProcessor.from_base(tiny_base_processor("qwen2_vl"))
    tiny_model("qwen2_vl", processor.tokenizer).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for entry in ("configuration", "modeling", "processing", "video_processing"):
        file = tmp_path / f"{entry}_ntlbg.py"
        direct = {str(tmp_path / f"{name}.py") for name in get_relative_imports(file)}
        assert direct == set(get_relative_import_files(file)) - {str(file)}
        assert "requirements_ntlbg" in get_relative_imports(file)
