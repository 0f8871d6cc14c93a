"""A saved checkpoint carries its code: it loads where the project has never been seen."""

import json
import os
import subprocess
import sys

import av
import pytest
import torch
from tiny_models import tiny_model
from tiny_parts import FAMILIES, moving_square, tiny_base_processor

from ntlbg.processors.processing_ntlbg import NTLBGProcessor


# Runs in a process of its own, isolated (-I), with the project's import finder taken away.
STRANGER = """
import json, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "ntlbg" not in repr(finder)]
sys.path[:] = [path for path in sys.path if "__editable__" not in path]
try:
    import ntlbg
except ImportError:
    pass
else:
    raise SystemExit("the project is importable here, so this would prove nothing")
import torch, transformers
torch.set_num_threads(1)
folder, video = sys.argv[1:3]
trust = {"trust_remote_code": True}
config = transformers.AutoConfig.from_pretrained(folder, **trust)
processor = transformers.AutoProcessor.from_pretrained(folder, **trust)
video_processor = transformers.AutoVideoProcessor.from_pretrained(folder, **trust)
model = transformers.AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
plain = transformers.AutoModel.from_pretrained(folder, **trust).eval()
messages = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": "what?"}]}]
inputs = processor.apply_chat_template(
    messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
)
output = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_representatives=3, return_selection=True)
again = plain.generate(**inputs, max_new_tokens=6, do_sample=False, num_representatives=3)
assert torch.equal(output.sequences, again)
model.save_pretrained(folder + "-again")
processor.save_pretrained(folder + "-again")
json.dump({
    "modules": sorted({type(thing).__module__.split(".")[0] for thing in (config, processor, video_processor, model)}),
    "classes": [type(thing).__name__ for thing in (config, processor, video_processor, model)],
    "answer": output.sequences[0, inputs["input_ids"].shape[1]:].tolist(),
    "indices": output.selections[0].indices.tolist(),
    "seconds": output.selections[0].timestamps.tolist(),
}, sys.stdout)
"""


def write_clip(path, frames, fps=4):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def in_a_strangers_process(folder, video, cache):
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(folder), str(video)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cache,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("family", sorted(FAMILIES))
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

    for place in (folder, folder.with_name("checkpoint-again")):
        seen = in_a_strangers_process(place, video, cache)
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
