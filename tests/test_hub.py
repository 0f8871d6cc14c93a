"""Pushed, pulled and streamed over HTTP, by processes of their own; see loopback_hub.py."""

import pytest
from hub_parts import DISTANCE, WITHOUT_NETWORK, run_alone
from loopback_hub import LoopbackHub
from qa_parts import video_bytes

from ntlbg.configuration.requirements_ntlbg import VERSION


# A base and its processor; in front of it a model that is pushed twice; `ntlbg export` pushes it as a selector alone,
# and, loaded from there, whole and in shards.
PUSH = """
import json
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file
from strangers import write_clip
from tiny_models import SMALL, tiny_base
from tiny_parts import moving_square, tiny_base_processor
from ntlbg import NTLBGForConditionalGeneration, NTLBGProcessor
from ntlbg.cli import main

torch.set_num_threads(1)
base_processor = tiny_base_processor("qwen2_vl")
tiny_base("qwen2_vl", base_processor.tokenizer).push_to_hub("them/base")
base_processor.push_to_hub("them/base")

model = NTLBGForConditionalGeneration.from_base("them/base", config_kwargs=SMALL)
processor = NTLBGProcessor.from_base("them/base", candidate_fps=2.0)
write_clip("clip.mp4", moving_square(64))
content = [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "what?"}]
inputs = processor([{"role": "user", "content": content}])

def logits():
    with torch.no_grad():
        return model(**inputs, num_representatives=3).logits

expected = {"first": logits()}
model.push_to_hub("whole", commit_message="before training")
processor.push_to_hub("me/whole")
HfApi().create_tag("me/whole", tag="v1")
with torch.no_grad():
    model.rich_points.gate.fill_(0.5)
expected["second"] = logits()
model.push_to_hub("me/whole")
model.config.push_to_hub("me/config")
processor.video_processor.push_to_hub("me/video-processor")

model.save_pretrained("saved")
processor.save_pretrained("saved")
for words in (
    ["saved", "selector", "--selector-only", "--base", "them/base@main", "--push-to", "me/selector", "--private"],
    ["me/selector", "whole", "--max-shard-size", "100KB", "--push-to", "me/whole"],
):
    if code := main(["export", *words, "--quiet"]):
        raise SystemExit(code)
# The base moves on; what was exported before does not.
base = model.vlm
with torch.no_grad():
    base.get_output_embeddings().weight.mul_(2.0)
base.push_to_hub("them/base")
save_file(dict(inputs), "inputs.safetensors")
save_file(expected, "expected.safetensors")
print("RESULT", json.dumps({"differ": float((expected["first"] - expected["second"]).abs().max())}))
"""

# Rows of a benchmark, pushed as data alone, pulled and streamed; a run that trains on them, and pushes its model.
TRAIN = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from ntlbg.cli import main
from ntlbg.data.qa_dataset import load_qa
from train import main as train

Path("charades.txt").write_text("v0 0.5 3.0##a square moves.\\nv1 2.0 4.0##the square turns back.\\n" * 2)
words = ["--annotations", "charades.txt", "--videos", "videos", "--out", "rows", "--split", "train"]
assert main(["data", "prepare", "charades_sta", *words, "--push-to", "me/rows", "--public"]) == 0
pulled = load_qa("me/rows", video_root="videos")
streamed = load_qa("me/rows", video_root="videos", streaming=True)
assert list(streamed) == [pulled[i] for i in range(len(pulled))]

flags = {
    "model_name_or_path": "me/selector", "dataset": "me/rows", "video_root": "videos", "output_dir": "run",
    "max_steps": 2, "per_device_train_batch_size": 2, "num_representatives": 3, "report_to": "none", "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "no", "push_to_hub": True, "hub_model_id": "me/trained", "seed": 7,
}
assert train([f"--{name}={value}" for name, value in flags.items()]) == 0
print("RESULT", json.dumps({"rows": len(pulled), "place": pulled[0]["place"]}))
"""

PULL = (
    DISTANCE
    + """
messages = [{"role": "user", "content": [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "what?"}]}]
found = {
    "whole": pulled("me/whole"),
    "pinned": pulled("me/whole", "first", revision="v1"),
    "selector": pulled("me/selector"),
    "moved base": pulled("me/selector", base_name_or_path="them/base"),
}
classes = {}
for name in ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoProcessor",
             "AutoVideoProcessor", "AutoImageProcessor", "AutoTokenizer"):
    classes[name] = type(getattr(transformers, name).from_pretrained("me/whole", **TRUST)).__name__
for name, place in (("AutoConfig", "me/config"), ("AutoVideoProcessor", "me/video-processor")):
    classes[place] = type(getattr(transformers, name).from_pretrained(place, **TRUST)).__name__
pipe = transformers.pipeline("any-to-any", model="me/whole", trust_remote_code=True)
said = pipe(messages, max_new_tokens=6, return_full_text=False, generate_kwargs={"do_sample": False})
inputs_of_messages = pipe.processor.apply_chat_template(
    messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
)
ids = pipe.model.generate(**inputs_of_messages, max_new_tokens=6, do_sample=False)
text = pipe.processor.decode(ids[0, inputs_of_messages["input_ids"].shape[1]:], skip_special_tokens=True)
trained = transformers.AutoModelForImageTextToText.from_pretrained("me/trained", **TRUST)
try:
    transformers.AutoModelForImageTextToText.from_pretrained("me/whole")
except ValueError as error:
    refused = str(error)
print("RESULT", json.dumps({
    "distances": found, "classes": classes, "pipeline": [said[0]["generated_text"].strip(), text.strip()],
    "trained": [trained.config.selector_trained, distance(trained)], "refused": refused,
    "modules": type(trained).__module__.split(".")[0],
}))
"""
)


@pytest.fixture(scope="module")
def hub():
    hub = LoopbackHub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def pushed(hub, place):
    """What the process that pushes printed; the Hub then has it all."""
    return run_alone(PUSH, hub, place)[0]


@pytest.fixture(scope="module")
def trained(hub, place, pushed):
    (place / "videos").mkdir()
    for number in range(2):
        (place / "videos" / f"v{number}.mp4").write_bytes(video_bytes(number))
    return run_alone(TRAIN, hub, place)[0]


@pytest.fixture(scope="module")
def pulled(hub, place, trained):
    """What a stranger found, with a cache of its own."""
    return run_alone(PULL, hub, place, stranger=True, cache="strangers")[0]


def test_a_push_holds_weights_and_code_and_no_weights_of_an_earlier_one(hub, pushed):
    repo, files = hub.repos["model", "me/whole"], hub.files("me/whole")
    assert repo.messages[:2] == ["initial commit", "before training"]
    assert len(repo.messages) == 5
    shards = [name for name in files if name.startswith("model-")]
    assert len(shards) > 1
    # Loaded before the shards, it would be the model of the commits before.
    assert "model.safetensors" not in files
    assert all(files[name]["lfs"] for name in shards)
    assert {"config.json", "modeling_ntlbg.py", "processing_ntlbg.py", "model.safetensors.index.json"} <= set(files)
    assert any(line.startswith("PUT /lfs/") for line in hub.log)
    assert "configuration_ntlbg.py" in hub.files("me/config")
    assert "modeling_ntlbg.py" not in hub.files("me/config")
    assert "video_processing_ntlbg.py" in hub.files("me/video-processor")


def test_an_exported_selector_is_small_and_names_its_base_to_the_commit(hub, pushed):
    files, base = hub.files("me/selector"), hub.repos["model", "them/base"]
    assert hub.repos["model", "me/selector"].private
    weights = sum(file["size"] for name, file in files.items() if name.endswith(".safetensors"))
    whole = sum(file["size"] for name, file in hub.files("them/base").items() if name.endswith(".safetensors"))
    assert weights < whole / 4
    assert hub.config("me/selector")["base_name_or_path"] == f"them/base@{base.commits_in_order[2]}"
    card = hub.text("me/selector", "README.md")
    assert "base_model: them/base\n" in card
    assert "base_model_relation: adapter\n" in card
    assert "Nothing has been measured" in card
    for name in ("me/selector", "me/whole"):
        card = hub.text(name, "README.md")
        assert f"# {name}\n" in card
        assert card.count(f'from_pretrained("{name}", trust_remote_code=True)') == 2
    assert "model-index" not in card


def test_a_stranger_gets_the_same_logits_whole_pinned_or_with_a_base_fetched(pushed, pulled):
    assert pushed["differ"] > 1e-3
    distances = pulled["distances"]
    assert [distances[name] for name in ("whole", "pinned", "selector")] == [0.0, 0.0, 0.0]
    # Without the commit that was noted it would be another base by now.
    assert distances["moved base"] > 1e-3


def test_every_auto_class_and_the_pipeline_work_for_a_stranger(pulled):
    model = "NTLBGForConditionalGeneration"
    classes = pulled["classes"]
    assert (
        classes["AutoModel"] == classes["AutoModelForImageTextToText"] == classes["AutoModelForMultimodalLM"] == model
    )
    assert classes["AutoConfig"] == classes["me/config"] == "NTLBGConfig"
    assert classes["AutoProcessor"] == "NTLBGProcessor"
    assert classes["AutoVideoProcessor"] == classes["me/video-processor"] == "NTLBGVideoProcessor"
    assert pulled["pipeline"][0] == pulled["pipeline"][1]
    assert "trust_remote_code=True" in pulled["refused"]


def test_rows_are_pushed_as_data_pulled_and_streamed(hub, trained):
    assert trained == {"rows": 4, "place": "me/rows (train), row 0"}
    files = hub.files("me/rows", "dataset")
    assert "train.jsonl" in files
    assert not any(name.endswith((".py", ".mp4")) for name in files)
    assert "configs:" in hub.text("me/rows", "README.md", "dataset")


def test_a_run_trains_on_pulled_rows_and_pushes_its_model_with_its_card(hub, pulled):
    assert pulled["trained"][0] is True
    assert pulled["trained"][1] > 0.0
    assert pulled["modules"] == "transformers_modules"
    assert hub.repos["model", "me/trained"].messages[-1] == "End of training"
    card = hub.text("me/trained", "README.md")
    assert "base_model: them/base\n" in card
    assert "datasets:\n- me/rows\n" in card
    assert "2 of 2 optimizer steps, on `me/rows`" in card
    assert 'from_pretrained("me/trained", trust_remote_code=True)' in card


def test_with_the_network_cut_off_the_cache_is_enough(hub, place, pulled):
    code = WITHOUT_NETWORK + DISTANCE + 'print("RESULT", json.dumps([pulled("me/whole"), pulled("me/selector")]))'
    found, _ = run_alone(code, hub, place, stranger=True, cache="strangers", HF_HUB_OFFLINE="1")
    assert found == [0.0, 0.0]


REFUSED = """
import json
from pathlib import Path
from ntlbg.errors import InputError
from ntlbg.hub_push import push_folder
from train import main as train

if WHAT == "batch":
    try:
        push_folder("saved", "me/refused", message="Export")
    except InputError as error:
        said = str(error)
else:
    flags = {
        "model_name_or_path": "saved", "dataset": "rows", "video_root": "videos", "output_dir": "refused-run",
        "max_steps": 1, "num_representatives": 3, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "push_to_hub": True, "hub_model_id": "me/refused-run",
    }
    said = [train([f"--{name}={value}" for name, value in flags.items()]), Path("refused-run/summary.json").exists()]
print("RESULT", json.dumps(said))
"""


def test_a_push_that_is_refused_midway_is_one_sentence_and_loses_nothing_of_the_run(hub, place, trained):
    try:
        hub.refuses = "batch"
        said, _ = run_alone(f"WHAT = {hub.refuses!r}\n{REFUSED}", hub, place)
        hub.refuses = "upload"
        (code, kept), error = run_alone(f"WHAT = {hub.refuses!r}\n{REFUSED}", hub, place)
    finally:
        hub.refuses = ""
    assert said.startswith("'saved' was written, but cannot be pushed to 'me/refused' (")
    assert (code, kept) == (2, True)
    # Among progress bars.
    (told,) = [line for line in error.splitlines() if "train.py: error: " in line]
    assert "'refused-run' was written, but cannot be pushed to 'me/refused-run' (" in told
    assert "Error while uploading" in told


OLD = """
import huggingface_hub.dataclasses, transformers.cache_utils, transformers.processing_utils, transformers.video_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module
transformers.__version__ = "4.57.1"
# What an older one lacks.
del huggingface_hub.dataclasses.strict, transformers.processing_utils.ProcessorMixin
del transformers.video_utils.VideoMetadata, transformers.cache_utils.Cache
said = []
for name in ("configuration_ntlbg.NTLBGConfig", "modeling_ntlbg.NTLBGForConditionalGeneration",
             "processing_ntlbg.NTLBGProcessor", "video_processing_ntlbg.NTLBGVideoProcessor"):
    try:
        get_class_from_dynamic_module(name, "saved")
    except ImportError as error:
        said.append(str(error))
print("RESULT", json.dumps(said))
"""


def test_a_folder_needs_no_network_and_an_older_transformers_is_told_in_one_sentence(hub, place, pushed):
    code = f"{WITHOUT_NETWORK}{DISTANCE}found = pulled('./whole')\nassert found == 0.0, found\n{OLD}"
    said, _ = run_alone(code, hub, place, stranger=True, cache="fresh")
    sentence = (
        f"ntlbg {VERSION}, the code of this model, needs transformers 5.23 or newer, but 4.57.1 is installed; run: "
        "pip install --upgrade 'transformers>=5.23'"
    )
    assert said == [sentence] * 4
    ours = """
import json, transformers
transformers.__version__ = "4.57.1"
from ntlbg.cli import main
print("RESULT", json.dumps(main(["export", "saved", "more"])))
"""
    code, error = run_alone(ours, hub, place)
    assert code == 2
    assert error.splitlines()[-1] == f"ntlbg: error: {sentence}"
