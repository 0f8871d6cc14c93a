"""A process that has never seen this project loads a checkpoint by the code beside it."""

import json
import os
import subprocess
import sys

import av


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
folder, video, question, k = sys.argv[1:5]
trust = {"trust_remote_code": True}
config = transformers.AutoConfig.from_pretrained(folder, **trust)
processor = transformers.AutoProcessor.from_pretrained(folder, **trust)
video_processor = transformers.AutoVideoProcessor.from_pretrained(folder, **trust)
model = transformers.AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
plain = transformers.AutoModel.from_pretrained(folder, **trust).eval()
messages = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
inputs = processor.apply_chat_template(
    messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
)
output = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_representatives=int(k), return_selection=True)
again = plain.generate(**inputs, max_new_tokens=6, do_sample=False, num_representatives=int(k))
assert torch.equal(output.sequences, again)
if len(sys.argv) > 5:
    model.save_pretrained(sys.argv[5])
    processor.save_pretrained(sys.argv[5])
json.dump({
    "modules": sorted({type(thing).__module__.split(".")[0] for thing in (config, processor, video_processor, model)}),
    "classes": [type(thing).__name__ for thing in (config, processor, video_processor, model)],
    "answer": output.sequences[0, inputs["input_ids"].shape[1]:].tolist(),
    "text": processor.decode(output.sequences[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip(),
    "indices": output.selections[0].indices.tolist(),
    "seconds": output.selections[0].timestamps.tolist(),
}, sys.stdout)
"""


def write_clip(path, frames, fps=4):
    """Frames (N, H, W, 3) as a real mp4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def in_a_strangers_process(folder, video, cache, question="what?", k=3, save_to=None):
    """Load the checkpoint where the project is out of reach, answer, and save it anew if told; what came of it."""
    extra = [] if save_to is None else [str(save_to)]
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *map(str, (folder, video, question, k)), *extra],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cache,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    # DeepSpeed, where it is installed, writes to stdout when it is imported (by saving, for one).
    return json.loads(result.stdout.splitlines()[-1])
