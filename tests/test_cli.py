"""The command line: one table, one answer, or one sentence that says what is wrong."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_encoders import save_encoder, scenes, write_audio, write_video
from tiny_models import tiny_base, tiny_model
from tiny_parts import SPECIAL_TOKENS, tiny_base_processor, tiny_tokenizer

from ntlbg.cli import build_parser, main
from ntlbg.cli_common import Stages
from ntlbg.configuration.configuration_ntlbg import NTLBGConfig
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.processors.processing_ntlbg import NTLBGProcessor
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.answers import ModelError
from ntlbg.selection.features import FrameSelection
from ntlbg.selection.image_answering import IMAGES


FOOTAGE = Path(__file__).resolve().parents[1].parent / "shared" / "videos"
FOOTAGE_FILES = sorted(path.name for path in FOOTAGE.glob("*") if path.suffix in (".mp4", ".mkv", ".webm"))
QUESTION = "where is the red car?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("video") / "scenes.mp4", scenes()))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_encoder("clip", tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a plain base, of an untrained NTLBG checkpoint in front of it, and of a model that takes images."""
    folder = tmp_path_factory.mktemp("models")
    processor = tiny_base_processor("qwen2_vl")
    tiny_base("qwen2_vl", processor.tokenizer).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    tiny_model("qwen2_vl", processor.tokenizer, num_representatives=3).save_pretrained(folder / "ntlbg")
    NTLBGProcessor.from_base(processor, candidate_fps=1.0).save_pretrained(folder / "ntlbg")
    _save_llava(folder / "llava")
    return {name: str(folder / name) for name in ("base", "ntlbg", "llava")}


def _save_llava(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    image_token = SPECIAL_TOKENS[6]
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**vision, "vocab_size": len(tokenizer), "num_key_value_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, image_size=32, patch_size=8, projection_dim=16),
        text_config=transformers.LlamaConfig(**text, **ids, max_position_embeddings=2048),
        image_token_id=tokenizer.convert_tokens_to_ids(image_token),
    )
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=image_token,
        chat_template="{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
        + image_token
        + "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}",
    ).save_pretrained(folder)


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command in this process."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_sentence(code: int, out: str, err: str) -> None:
    assert code == 2
    assert out == ""
    assert err.startswith("ntlbg: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


# -- select --------------------------------------------------------------------------------------------------------


def test_select_prints_the_table_with_both_counts(capsys, clip):
    code, out, err = run(capsys, "select", clip, "-k", 5)
    assert (code, err) == (0, "")
    assert "5 frames of 16 candidates" in out
    assert "5 groups" in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    pictures = [int(row[1]) for row in rows]
    assert pictures == sorted(set(pictures))
    assert all(float(row[3]) == pytest.approx(int(row[1]) / 10, abs=0.001) for row in rows)
    assert all(row[4] in ("relevance", "novelty", "coverage") for row in rows)
    assert sum(float(row[5].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)


def test_json_on_the_standard_output_is_alone_there_and_is_the_selection(capsys, clip, encoder):
    code, out, _ = run(capsys, "select", clip, QUESTION, "-k", 4, "--encoder", encoder, "--json", "-")
    assert code == 0
    described = json.loads(out)
    assert described["timings"]["look at the candidates"] > 0
    selection = FrameSelection.from_dict(described)
    assert selection.k == 4
    assert selection.query == QUESTION
    assert selection.encoder == encoder


def test_select_writes_frames_sheet_report_and_json(capsys, clip, tmp_path):
    out_folder, report, figures = tmp_path / "new" / "frames", tmp_path / "r.html", tmp_path / "s.json"
    code, out, _ = run(
        capsys, "select", clip, "-k", 3, "--out", out_folder, "--report", report, "--json", figures, "--max-side", 32
    )
    assert code == 0
    written = sorted(path.name for path in out_folder.iterdir())
    assert written[0] == "contact_sheet.png"
    indices = FrameSelection.load(figures).indices.tolist()
    assert [int(name.split("_")[3].removesuffix(".png")) for name in written[1:]] == indices
    assert Image.open(out_folder / written[1]).size == (32, 24)
    assert report.read_text().count("<img") == 3
    assert (tmp_path / "r.json").is_file()
    assert str(report) in out


def test_a_query_without_a_reachable_encoder_ends_with_one_sentence_and_never_without_the_query(clip):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull + "/none"}
    ended = subprocess.run(
        [sys.executable, "-m", "ntlbg", "select", clip, QUESTION], capture_output=True, text=True, env=environment
    )
    assert_one_sentence(ended.returncode, ended.stdout, ended.stderr)
    for part in ("google/siglip2-base-patch16-224", "--encoder PATH", "drop the query"):
        assert part in ended.stderr


@pytest.fixture
def talk(tmp_path):
    path = tmp_path / "talk.srt"
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHe & I <b>met</b>.\n\n2\n0:09 --> x\n\n3\n0:06 --> 0:07\nBye.\n"
    )
    return path


def test_select_shows_what_is_said_at_each_frame(capsys, clip, talk, tmp_path):
    figures, report = tmp_path / "s.json", tmp_path / "r.html"
    code, out, err = run(capsys, "select", clip, "-k", 3, "--subtitles", talk, "--json", figures, "--report", report)
    assert code == 0
    assert out.split("\nsaid\n")[1].count("He & I met.") == 1
    assert "1 cue has no readable times in 'talk.srt', first in line 6: left out" in err
    spoken = json.loads(figures.read_text())["spoken"]
    assert [len(cues) for cues in spoken].count(0) == 1
    assert [cue for cues in spoken for cue in cues] == [
        {"start": 1.0, "end": 2.0, "text": "He & I met."},
        {"start": 6.0, "end": 7.0, "text": "Bye."},
    ]
    assert FrameSelection.load(figures).k == 3
    assert "<q>He &amp; I met.</q>" in report.read_text()
    assert json.loads(report.with_suffix(".json").read_text())["questions"][0]["spoken"] == spoken
    _, out, err = run(capsys, "select", clip, "-k", 1, "--subtitles", talk, "--subtitle-seconds", 0)
    assert "more than 0 s from every chosen moment" in err


@pytest.mark.parametrize("model", ["llava", "ntlbg"])
def test_ask_tells_what_is_said_and_writes_it_down(capsys, clip, talk, models, model):
    arguments = ["--model", models[model], "--max-new-tokens", 2, "--json", "-"]
    arguments += ["--encoder", "none"] if model == "llava" else []
    code, out, err = run(capsys, "ask", clip, QUESTION, "-k", 2, "--subtitles", talk, *arguments)
    assert code == 0
    assert err.count("no readable times") == 1
    (answer,) = json.loads(out)["answers"]
    assert [cue["text"] for cues in answer["spoken"] for cue in cues] == ["He & I met.", "Bye."]
    assert len(answer["spoken"]) == 2


def test_subtitles_that_cannot_be_used_end_before_any_work(capsys, clip, tmp_path, models):
    for arguments in (
        ["--subtitles", tmp_path / "none.srt"],
        ["--subtitles", clip],
        ["--subtitle-seconds", 3],
        ["--subtitles", clip, "--subtitle-seconds", "-1"],
        ["--subtitles", clip, "--subtitle-seconds", "nan"],
    ):
        assert_one_sentence(*run(capsys, "select", clip, *arguments))
        assert_one_sentence(*run(capsys, "ask", clip, QUESTION, "--model", models["ntlbg"], *arguments))


def test_a_file_name_that_is_no_utf8_can_be_written(capsys, clip, tmp_path):
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/na\xffme.mp4")
    shutil.copy(clip, odd)
    code, _, _ = run(capsys, "select", odd, "-k", 2, "--json", tmp_path / "s.json")
    assert code == 0
    assert FrameSelection.load(tmp_path / "s.json").name == "na\udcffme.mp4"


@pytest.mark.skipif(not FOOTAGE_FILES, reason="the footage is not part of the repository")
@pytest.mark.parametrize("name", FOOTAGE_FILES)
def test_select_reads_real_footage(capsys, name):
    code, out, _ = run(capsys, "select", FOOTAGE / name, "-k", 4, "--candidate-fps", 1)
    assert code == 0
    assert name in out


# -- ask -----------------------------------------------------------------------------------------------------------


def test_ask_without_a_model_says_that_the_embedded_one_knows_its_own_world_only(capsys, clip):
    code, out, err = run(capsys, "ask", clip, QUESTION)
    assert_one_sentence(code, out, err)
    assert "procedural world" in err
    assert "--model" in err


def test_ask_answers_every_question_from_an_ntlbg_checkpoint_and_shows_the_evidence(capsys, clip, models, tmp_path):
    report = tmp_path / "r.html"
    code, out, err = run(
        capsys, "ask", clip, QUESTION, "who?", "--model", models["ntlbg"], "--max-new-tokens", 4, "--report", report
    )
    assert code == 0
    # The checkpoint's own k (3 groups) and candidates (1 per second: 8 frames, 4 groups).
    assert out.count("from 3 groups = 6 frames, of 4 candidate groups") == 2
    assert out.index(QUESTION) < out.index("who?")
    assert "untrained" in err
    assert report.read_text().count("<img") == 6


def test_asking_many_questions_gives_the_answers_of_asking_each_alone(clip, models):
    answerer = load_answerer(models["ntlbg"], max_new_tokens=6, device="cpu")
    opened = answerer.open(clip)
    together = [opened.ask(question, 2) for question in (QUESTION, "who?", "a")]
    alone = [answerer.open(clip).ask(answer.question, 2) for answer in together]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [list(answer.selection.indices) for answer in together] == [list(a.selection.indices) for a in alone]


def test_the_kept_features_answer_as_the_model_does_from_its_pixels(clip, models):
    answerer = load_answerer(models["ntlbg"], max_new_tokens=6, device="cpu")
    answer = answerer.open(clip).ask(QUESTION, 2)
    messages = [{"role": "user", "content": [{"type": "video", "path": clip}, {"type": "text", "text": QUESTION}]}]
    inputs = answerer.processor(messages)
    output = answerer.model.generate(**inputs, num_representatives=2, max_new_tokens=6, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    assert answerer.processor.tokenizer.decode(new, skip_special_tokens=True).strip() == answer.text


def test_a_budget_of_tokens_becomes_a_number_of_groups(capsys, clip, models):
    arguments = ("ask", clip, QUESTION, "--model", models["ntlbg"], "--max-new-tokens", 2)
    code, out, _ = run(capsys, *arguments, "--max-visual-tokens", 8, "--json", "-")
    assert code == 0
    answer = json.loads(out)["answers"][0]
    selection = Selection.from_dict(answer["selection"])
    grid_tokens = 8 // answer["num_groups"]
    assert len(selection) == answer["num_groups"] <= 4
    assert answer["num_groups"] * grid_tokens <= 8
    code, out, err = run(capsys, *arguments, "--max-visual-tokens", 1)
    assert_one_sentence(code, out, err)


def test_a_plain_base_reads_again_what_the_encoder_chose(capsys, clip, models, encoder):
    arguments = ("ask", clip, QUESTION, "--model", models["base"], "--max-new-tokens", 2, "-k", 3, "--json", "-")
    code, out, _ = run(capsys, *arguments, "--encoder", encoder)
    assert code == 0
    answer = json.loads(out)["answers"][0]
    assert answer["num_groups"] == 3
    assert answer["num_frames"] == 6
    assert len(answer["selection"]["relevance"]) == answer["selection"]["num_groups"]
    # the pictures are numbered as in the file
    assert answer["selection"]["frames_indices"][:3] == [0, 5, 10]


def test_a_budget_of_tokens_also_binds_what_is_read_again(clip, models, encoder):
    answerer = load_answerer(models["base"], encoder=encoder, device="cpu", max_new_tokens=2)
    messages = [{"role": "user", "content": [{"type": "video", "path": clip}, {"type": "text", "text": QUESTION}]}]
    grid = answerer.processor(messages)["video_grid_thw"][0].tolist()
    per_group = grid[1] * grid[2] // 4
    opened = answerer.open(clip)
    assert opened.ask(QUESTION, max_visual_tokens=4 * per_group - 1).num_groups == 3
    assert opened.ask(QUESTION, max_visual_tokens=1000 * per_group).num_groups == grid[0]
    with pytest.raises(ModelError, match=f"below the least that this video can be read with, {per_group};"):
        opened.ask(QUESTION, max_visual_tokens=per_group - 1)


def test_auto_classes_load_our_checkpoints_with_the_installed_code(models):
    assert type(transformers.AutoProcessor.from_pretrained(models["ntlbg"])) is NTLBGProcessor
    model = transformers.AutoModelForImageTextToText.from_pretrained(models["ntlbg"])
    assert type(model) is NTLBGForConditionalGeneration


def test_any_other_model_answers_from_images(capsys, clip, models, encoder):
    arguments = ("ask", clip, QUESTION, "--model", models["llava"], "--max-new-tokens", 2, "-k", 3)
    code, out, _ = run(capsys, *arguments, "--encoder", encoder)
    assert code == 0
    assert "from 3 groups = 3 frames, of 16 candidate frames" in out
    code, out, err = run(capsys, *arguments, "--encoder", "none")
    assert code == 0
    assert "question was not used" in err


def test_a_model_that_gets_images_looks_once_at_the_same_video(capsys, clip, models, encoder, tmp_path):
    arguments = ("ask", clip, QUESTION, "--model", models["llava"], "--max-new-tokens", 2, "--cache", tmp_path)
    written = []
    for _ in range(2):
        assert run(capsys, *arguments, "--encoder", encoder)[0] == 0
        written.append([(path.name, path.stat().st_ino) for path in tmp_path.iterdir()])
    assert len(written[0]) == 1
    assert written[0] == written[1]


def test_options_that_cannot_be_followed_are_refused(capsys, clip, models, encoder):
    budget = ("ask", clip, QUESTION, "--model", models["llava"], "--encoder", "none", "--max-visual-tokens", 9)
    assert_one_sentence(*run(capsys, *budget))
    own_look = ("ask", clip, QUESTION, "--model", models["ntlbg"], "--encoder", encoder)
    assert_one_sentence(*run(capsys, *own_look))
    both = ("ask", clip, QUESTION, "--model", models["ntlbg"], "-k", 2, "--max-visual-tokens", 9)
    assert_one_sentence(*run(capsys, *both))
    missing = ("ask", clip, QUESTION, "--model", "/no/such/model", "--encoder", "none")
    assert_one_sentence(*run(capsys, *missing))


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(4096))
    write_audio(folder / "sound.mp4")
    (folder / "folder.mp4").mkdir()
    return folder


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "noise.mkv", "sound.mp4", "folder.mp4", "missing.mp4"])
def test_a_bad_file_gives_one_sentence_that_names_it(capsys, bad_files, name):
    code, out, err = run(capsys, "select", bad_files / name)
    assert_one_sentence(code, out, err)
    assert name in err


def test_a_bad_file_is_refused_before_any_model_is_loaded(capsys, bad_files):
    code, out, err = run(capsys, "ask", bad_files / "text.mp4", QUESTION, "--model", "/no/such/model")
    assert_one_sentence(code, out, err)
    assert "text.mp4" in err
    code, out, err = run(capsys, "select", bad_files / "text.mp4", QUESTION, "--encoder", "/no/such/encoder")
    assert_one_sentence(code, out, err)
    assert "text.mp4" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["select"],
        ["select", "x.mp4", "-k", "0"],
        ["select", "x.mp4", "-k", "many"],
        ["select", "x.mp4", "--candidate-fps", "nan"],
        ["select", "x.mp4", "--candidate-fps", "-1"],
        ["select", "x.mp4", " "],
        ["select", "x.mp4", "--report", "r.txt"],
        ["select", "x.mp4", "--report", "/no/such/folder/r.html"],
        ["select", "x.mp4", "--json", "/no/such/folder/r.json"],
        ["select", "x.mp4", "--json", "/"],
        ["select", "x.mp4", "--report", "r.html", "--json", "r.json"],
        ["select", "x.mp4", "--out", __file__],
        ["ask", "x.mp4"],
        ["ask", "x.mp4", "", "--model", "m"],
        ["dance", "x.mp4"],
    ],
    ids=" ".join,
)
def test_bad_usage_gives_one_sentence_before_any_work(capsys, arguments):
    assert_one_sentence(*run(capsys, *arguments))


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "mps", "xpu", "meta", "vulkan"])
def test_a_device_that_cannot_compute_here_is_refused_in_one_sentence(capsys, clip, models, name):
    if (name == "mps" and torch.backends.mps.is_available()) or (name == "xpu" and torch.xpu.is_available()):
        pytest.skip("this machine has one")
    for command in (("select", clip), ("ask", clip, QUESTION, "--model", models["ntlbg"])):
        code, out, err = run(capsys, *command, "--device", name)
        assert_one_sentence(code, out, err)
        assert f"--device '{name}'" in err


DAMAGES = {
    "weights that are cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:5000])),
    "a header that is cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])),
    "a config of wrong types": ("config.json", lambda path: path.write_text(_with_wrong_type(path.read_text()))),
    "a config that is no JSON": ("config.json", lambda path: path.write_text("{")),
    "no weights": ("model.safetensors", Path.unlink),
    "no chat template": ("chat_template.jinja", Path.unlink),
}


def _with_wrong_type(config: str) -> str:
    """The first number of layers that is found, be it of a part, becomes a word."""
    return re.sub(r'"(num_hidden_layers|depth)": \d+', r'"\1": "many"', config, count=1)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["base", "ntlbg", "llava"])
def test_a_damaged_model_is_refused_in_one_sentence_that_names_it(capsys, clip, models, tmp_path, kind, damage):
    folder = shutil.copytree(models[kind], tmp_path / "damaged")
    name, act = DAMAGES[damage]
    act(folder / name)
    look = () if kind == "ntlbg" else ("--encoder", "none")
    code, out, err = run(capsys, "ask", clip, QUESTION, "--model", folder, *look)
    assert_one_sentence(code, out, err)
    assert str(folder) in err
    if damage == "no chat template":
        assert "no chat template" in err


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "no chat template"])
def test_a_damaged_encoder_is_refused_in_one_sentence_that_names_it(capsys, clip, encoder, tmp_path, damage):
    folder = shutil.copytree(encoder, tmp_path / "damaged")
    name, act = DAMAGES[damage]
    act(folder / name)
    code, out, err = run(capsys, "select", clip, QUESTION, "--encoder", folder)
    assert_one_sentence(code, out, err)
    assert str(folder) in err


@pytest.mark.parametrize(("file", "loaded"), [("text.mp4", ()), ("scenes", ("torch",))])
def test_only_what_is_needed_is_imported_before_a_file_is_refused_and_for_one_that_is_not(
    clip, bad_files, file, loaded
):
    path = clip if file == "scenes" else str(bad_files / file)
    heavy = ("torch", "torchvision", "transformers", "matplotlib", "scipy")
    script = "import sys; from ntlbg.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script, "select", path, "-k", "2"], capture_output=True, text=True)
    assert ended.returncode == 0
    assert tuple(name for name in heavy if name in ended.stderr.split()) == loaded


def test_in_a_process_of_its_own_nothing_but_the_sentence_reaches_the_standard_error(bad_files):
    ended = subprocess.run(
        [sys.executable, "-m", "ntlbg", "select", str(bad_files / "text.mp4")], capture_output=True, text=True
    )
    assert_one_sentence(ended.returncode, ended.stdout, ended.stderr)


def test_a_file_name_cannot_steer_the_terminal(capsys, tmp_path):
    code, out, err = run(capsys, "select", tmp_path / "a\x1b[2J\rb.mp4")
    assert_one_sentence(code, out, err)
    assert "\x1b" not in err
    path = write_video(tmp_path / "c\x1b[31md.mp4", scenes(lengths=(6,), flash=None))
    code, out, err = run(capsys, "select", path, "-k", 2)
    assert code == 0
    assert "\x1b" not in out + err


def test_interrupting_ends_with_130_and_no_traceback(capsys, clip, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ntlbg.cli_select.run", interrupted)
    code, out, err = run(capsys, "select", clip)
    assert (code, out, err) == (130, "", "ntlbg: interrupted\n")


def test_a_mistake_of_ours_is_not_passed_off_as_bad_input(clip, monkeypatch):
    def broken(args):
        raise ValueError("a bug")

    monkeypatch.setattr("ntlbg.cli_select.run", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["select", clip])


# -- help and progress ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "select", "ask", "probe"])
def test_help_shows_examples_that_parse(capsys, command):
    code, out, _ = run(capsys, *([command] if command else []), "--help")
    assert code == 0
    examples = [line.strip() for line in out.splitlines() if line.startswith("  ntlbg ")]
    assert examples
    for example in examples:
        words = shlex.split(example.split("  ")[0].split(" | ")[0])[1:]
        assert build_parser().parse_args(words).run


def test_the_help_of_k_tells_the_numbers_that_are_used(capsys):
    _, out, _ = run(capsys, "ask", "--help")
    text = " ".join(out.split())
    assert f"{NTLBGConfig().num_representatives} groups for a plain Qwen-VL" in text
    assert f"{IMAGES} frames for any other model" in text


def test_version_is_the_packages(capsys):
    from importlib.metadata import version

    code, out, _ = run(capsys, "--version")
    assert (code, out.strip()) == (0, f"ntlbg {version('ntlbg')}")


def test_a_stage_is_timed_and_a_quiet_run_draws_nothing(capsys):
    stages = Stages(1, quiet=True)
    with stages("work"):
        pass
    stages.close()
    assert list(stages.timings) == ["work"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_no_output_is_written_over_the_video(option, clip, tmp_path, capsys):
    name = "talk.mp4" if option == "--json" else "talk.json"
    video = tmp_path / name
    shutil.copy(clip, video)
    before = video.read_bytes()
    target = video if option == "--json" else tmp_path / "talk.html"
    assert main(["select", str(video), "-k", "2", option, str(target)]) == 2
    assert "would write over the video" in capsys.readouterr().err
    assert video.read_bytes() == before
