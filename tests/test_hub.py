"""Pushed and pulled for real, over HTTP, by processes of their own; see loopback_hub.py."""

# A base and its processor; in front of it a model that is pushed twice, whole and as a selector alone; the inputs and
# logits by which the strangers are judged.
PUSH = """
import json, sys
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from tiny_models import SMALL, tiny_base
from tiny_parts import moving_square, tiny_base_processor
from strangers import write_clip
from ntlbg import NTLBGConfig, NTLBGForConditionalGeneration, NTLBGProcessor
from ntlbg.cli import main

torch.set_num_threads(1)
base_processor = tiny_base_processor("qwen2_vl")
tiny_base("qwen2_vl", base_processor.tokenizer).push_to_hub("them/base")
base_processor.push_to_hub("them/base")

model = NTLBGForConditionalGeneration.from_base("them/base", config_kwargs=SMALL)
processor = NTLBGProcessor.from_base("them/base", candidate_fps=2.0)
write_clip("clip.mp4", moving_square(64))
inputs = processor([{"role": "user", "content": [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "what?"}]}])
save_file({name: value for name, value in inputs.items()}, "inputs.safetensors")

def logits():
    with torch.no_grad():
        return model(**inputs, num_representatives=3).logits

expected = {"first": logits()}
model.push_to_hub("whole", commit_message="first")
processor.push_to_hub("whole")
HfApi().create_tag("me/whole", tag="v1")
with torch.no_grad():
    model.rich_points.gate.fill_(0.5)
    model.rich_points.fusion_bias = None
model.config.selector_trained = True
expected["second"] = logits()
model.push_to_hub("me/whole", max_shard_size="100KB", private=False)
model.config.push_to_hub("me/config")
processor.video_processor.push_to_hub("me/video-processor")

model.save_pretrained("saved")
processor.save_pretrained("saved")
for words in (
    ["saved", "out-selector", "--selector-only", "--base", "them/base", "--push-to", "me/selector", "--private"],
    ["out-selector", "out-whole", "--push-to", "me/whole-again"],
):
    code = main(["export", *words, "--quiet"])
    if code:
        raise SystemExit(code)
save_file(expected, "expected.safetensors")
print(json.dumps({"head": HfApi().model_info("me/whole").sha}))
"""
