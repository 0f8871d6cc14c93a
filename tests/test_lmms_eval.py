"""The lmms-eval plug-in on toy copies of the official tasks, offline: `make test-eval` builds the environment."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


if any(find_spec(name) is None for name in ("lmms_eval", "decord")):
    pytest.skip("lmms-eval is not installed here; `make test-eval` runs these tests", allow_module_level=True)

from harness_toys import OFFICIAL, OURS, SECONDS, make_toys
from test_cli import encoder, models  # noqa: F401

import ntlbg.evaluation.lmms_tasks
from ntlbg.evaluation.harness_questions import task_question
from ntlbg.evaluation.option_reading import option_letter


TINY = Path(__file__).parents[1] / "checkpoints" / "ntlbg-tiny"
K = 8


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder with toy tasks and their HF_HOME, which is set before any task is imported; nothing is online."""
    root = tmp_path_factory.mktemp("toys")
    official = Path(find_spec("lmms_eval").submodule_search_locations[0], "tasks")
    make_toys(root, official, Path(ntlbg.evaluation.lmms_tasks.__file__).parent)
    settings = {
        "HF_HOME": str(root / "hf"),
        "HF_DATASETS_CACHE": str(root / "hf" / "tables"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield root


def documents(toys, task):
    (file,) = (toys / "data" / task).glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def lines_of(report):
    return [json.loads(line) for line in report.read_text().splitlines()]


@pytest.fixture(scope="module")
def commanded(toys):
    """What the real command, in a process of its own, made of all tasks with the embedded checkpoint: its results and
    the plug-in's own report."""
    tasks = [f"toy_{name}" for name in (*OFFICIAL, *OURS)]
    report = toys / "report.jsonl"
    command = [sys.executable, "-m", "lmms_eval", "--model", "ntlbg", "--tasks", ",".join(tasks), "--device", "cpu"]
    command += ["--model_args", f"pretrained={TINY},num_representatives={K},report={report}"]
    command += ["--include_path", str(toys / "tasks"), "--output_path", str(toys / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=toys)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (toys / "out").rglob("*_results.json")
    return json.loads(results.read_text()), lines_of(report), done.stdout


def test_every_task_is_answered_from_k_groups_at_true_times_chosen_for_the_bare_question(toys, commanded):
    _, lines, _ = commanded
    for name in (*OFFICIAL, *OURS):
        of_task = [line for line in lines if line["task"] == f"toy_{name}"]
        docs = documents(toys, name)
        assert sorted(line["doc_id"] for line in of_task) == list(range(len(docs)))
        for line in of_task:
            doc = docs[line["doc_id"]]
            assert line["query"] == doc.get(
                "caption", doc.get("question", "").splitlines()[0] if "question" in doc else ""
            )
            assert len(set(line["seconds"])) == K < line["candidates"]
            assert line["seconds"] == sorted(line["seconds"])
            # a picture a second, two in a group
            assert all(second % 2 == 0 and 0 <= second < SECONDS for second in line["seconds"])


def test_scores_are_those_of_the_answers_we_reduced_and_failures_are_a_rate_of_their_own(toys, commanded):
    results, lines, log = commanded
    metrics = {"longvideobench": "lvb_acc,none", "videomme": "videomme_perception_score,none"}
    for name in (*OFFICIAL, *OURS):
        task, docs = f"toy_{name}", documents(toys, name)
        of_task = sorted((line for line in lines if line["task"] == task), key=lambda line: line["doc_id"])
        unparsed = sum(line["answer"] is None for line in of_task)
        assert results["throughput"][f"avg_unparsed_share_{task}"] == pytest.approx(unparsed / len(docs))
        assert f"ntlbg: {task}: {len(docs)} answers, {unparsed / len(docs):.1%} unparsed" in log
        for family, metric in metrics.items():
            if name.startswith(family):
                letters = [
                    "ABCDE"[doc["correct_choice"]] if "correct_choice" in doc else doc["answer"] for doc in docs
                ]
                right = sum(line["answer"] == letter for line, letter in zip(of_task, letters, strict=True))
                scale = 1 if family == "longvideobench" else 100
                assert results["results"][task][metric] == pytest.approx(scale * right / len(docs), abs=1e-4)
    # the embedded checkpoint knows these videos' world: the way through the harness loses nothing of it
    assert results["results"]["toy_longvideobench_val_v"]["lvb_acc,none"] == 1.0


def test_subtitles_at_the_chosen_times_are_tasks_of_their_own_names(commanded):
    _, lines, _ = commanded
    for line in lines:
        if line["task"].removeprefix("toy_") in OURS:
            assert line["spoken"] >= 1
            assert any("0 s from every chosen moment" in note for note in line["notes"])
        else:
            assert line["spoken"] is None


def test_two_processes_share_the_questions_and_tell_one_rate(toys, commanded, tmp_path):
    alone, lines, _ = commanded
    task, settings = "toy_videomme", f"pretrained={TINY},num_representatives={K},report={tmp_path / 'report.jsonl'}"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "lmms_eval",
    ]
    command += ["--model", "ntlbg", "--tasks", task, "--device", "cpu", "--model_args", settings]
    command += ["--include_path", str(toys / "tasks"), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=toys, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "out").rglob("*_results.json")
    together = json.loads(file.read_text())
    name = f"avg_unparsed_share_{task}"
    assert together["throughput"][name] == pytest.approx(alone["throughput"][name])
    assert together["results"][task]["videomme_perception_score,none"] == pytest.approx(
        alone["results"][task]["videomme_perception_score,none"]
    )
    # documents are given to a process twice to even them out
    shared = [lines_of(tmp_path / f"report.jsonl.{rank}") for rank in range(2)]
    answers = {line["doc_id"]: line["answer"] for part in shared for line in part}
    assert all(shared)
    assert answers == {line["doc_id"]: line["answer"] for line in lines if line["task"] == task}


def test_our_tasks_are_found_in_the_folder_that_the_module_prints(toys):
    from lmms_eval.tasks import TaskManager

    printed = subprocess.run(
        [sys.executable, "-m", "ntlbg.evaluation.lmms_tasks"], capture_output=True, text=True, check=True
    )
    manager = TaskManager("ERROR", include_path=printed.stdout.strip(), model_name="ntlbg")
    assert set(OURS) <= set(manager.all_tasks)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llava", {"selector": "uniform", "encoder": "none"}),
        ("llava", {"selector": "ntlbg", "encoder": "ENCODER"}),
        ("llava", {"selector": "aks", "encoder": "ENCODER"}),
        ("base", {"selector": "ntlbg", "encoder": "ENCODER", "dtype": "bfloat16", "attn_implementation": "eager"}),
        ("base", {"selector": "top_k", "encoder": "ENCODER"}),
        ("ntlbg", {"selector": "uniform"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["selector"],
)
def test_any_model_answers_behind_any_selector(model, options, toys, models, encoder, tmp_path):  # noqa: F811
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    given = {**options, "pretrained": models[model], "num_representatives": 4, "candidate_fps": 0.5}
    given |= {"report": str(tmp_path / "report.jsonl"), "max_new_tokens": 3}
    given = {name: encoder if value == "ENCODER" else value for name, value in given.items()}
    results = simple_evaluate(
        model="ntlbg",
        model_args=",".join(f"{name}={value}" for name, value in given.items()),
        tasks=["toy_videomme", "toy_temporal_grounding_charades"],
        task_manager=TaskManager("ERROR", include_path=str(toys / "tasks"), model_name="ntlbg"),
        device="cpu",
        batch_size=1,
    )
    lines = lines_of(tmp_path / "report.jsonl")
    assert len(lines) == 6
    assert all(len(line["seconds"]) == 4 for line in lines)
    assert {line["query"] for line in lines} == {doc["question"] for doc in documents(toys, "videomme")}
    if options["selector"] == "uniform":
        # the middles of four equal stretches, in whole candidates: frames, or groups of two
        assert {tuple(line["seconds"]) for line in lines} == {(16.0, 48.0, 80.0, 112.0)}
    assert "unparsed_share_toy_videomme" in str(results["throughput"])


# -- the model by itself ---------------------------------------------------------------------------------------------


def harness_model(toys, **options):
    from ntlbg.evaluation.lmms_model import NTLBG

    given = {"batch_size": options.pop("batch_size", 1), "device": options.pop("device", "cpu")}
    return NTLBG.create_from_arg_string(
        ",".join(
            f"{name}={value}" for name, value in {"pretrained": TINY, "num_representatives": 2, **options}.items()
        ),
        given,
    )


def request_for(model, doc, messages, **options):
    from lmms_eval.api.instance import Instance

    number = len(model.task_dict.setdefault("a_task", {}).setdefault("test", []))
    model.task_dict["a_task"]["test"].append(doc)
    arguments = ("", lambda _: messages, {"max_new_tokens": 2, **options}, number, "a_task", "test")
    metadata = {"task": "a_task", "doc_id": number, "repeats": 1}
    return Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=metadata)


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


QUESTION = {"type": "text", "text": "What?\nA. x\nB. y"}
DOC = {"question": "What?", "options": ["A. x", "B. y"]}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"colour": "red"}, "ntlbg has no argument colour; it has pretrained, selector,"),
        ({"pretrained": ""}, "ntlbg needs a model"),
        ({"pretrained": "/nowhere"}, "cannot be loaded"),
        ({"selector": "best"}, "there is no selector 'best'"),
        ({"num_representatives": 0}, "num_representatives is a whole number of at least 1, got 0"),
        ({"candidate_fps": "fast"}, "candidate_fps is a number above 0, got 'fast'"),
        ({"subtitle_seconds": -1}, "subtitle_seconds is a number of at least 0, got -1"),
        ({"encoder": "/nowhere"}, "drop --encoder"),
        ({"dtype": "float7"}, "cannot be loaded"),
        ({"report": "/nowhere/report.jsonl"}, "lies in a folder that does not exist"),
        ({"batch_size": 4}, "batch_size is 1, got 4"),
        ({"device": "cuda:99"}, "is not there"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_sentence(options, told, toys, capsys):
    with pytest.raises(SystemExit) as left:
        harness_model(toys, **options)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code == 2
    assert error.startswith("ntlbg: error: ")
    assert told in error


def test_a_video_that_cannot_be_read_is_wrong_and_counted_and_the_run_goes_on(toys, tmp_path):
    from lmms_eval.models.model_utils.gen_metrics import get_logged_metrics_history
    from loguru import logger

    model = harness_model(toys, report=tmp_path / "report.jsonl")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    requests = [
        request_for(model, DOC, user({"type": "video", "url": str(path)}, QUESTION))
        for path in (tmp_path / "broken.mp4", toys / "world.mp4")
    ]
    answers = model.generate_until(requests)
    assert answers[0] == ""
    assert [line["doc_id"] for line in lines_of(tmp_path / "report.jsonl")] == [1]
    messages = []
    sink = logger.add(messages.append, format="{message}")
    model.clean()
    logger.remove(sink)
    told, (line,) = get_logged_metrics_history()[-1], lines_of(tmp_path / "report.jsonl")
    # the share of answers that say nothing is apart from that of questions without a video
    assert told["unparsed_share_a_task"] == (line["answer"] is None) / 2
    assert told["total_requests"] == 2
    assert any("ntlbg: a_task: 2 answers" in one and "1 with videos that cannot be read" in one for one in messages)


def test_broken_subtitles_cost_the_subtitles_and_not_the_answer(toys, tmp_path):
    model = harness_model(toys, report=tmp_path / "report.jsonl")
    (tmp_path / "broken.srt").write_text("nothing")
    parts = ({"type": "video", "url": str(toys / "world.mp4")}, QUESTION)
    messages = user(*parts, {"type": "subtitles", "url": str(tmp_path / "broken.srt")})
    model.generate_until([request_for(model, DOC, messages) for _ in range(2)])
    assert [line["spoken"] for line in lines_of(tmp_path / "report.jsonl")] == [None, None]
    assert all("without subtitles, which cannot be read" in trouble for trouble in model._troubles.values())


@pytest.mark.parametrize(
    ("messages", "options", "told"),
    [
        (user(QUESTION), {}, "gives 0 videos"),
        (user({"type": "image", "url": "x"}, QUESTION), {}, "gives 0 videos and image"),
        (user({"type": "video", "url": "x"}, {"type": "video", "url": "y"}, QUESTION), {}, "gives 2 videos"),
        ([{"role": "assistant", "content": "B"}, *user(QUESTION)], {}, "shows answered examples"),
        (user({"type": "video", "url": "x"}, QUESTION), {"do_sample": True}, "answers greedily"),
    ],
)
def test_a_task_of_another_kind_is_refused_in_one_sentence(messages, options, told, toys):
    model = harness_model(toys)
    with pytest.raises(ValueError, match=told):
        model.generate_until([request_for(model, DOC, messages, **options)])
    with pytest.raises(ValueError, match="gives no likelihoods"):
        model.loglikelihood([])


# -- the official parsers read what we hand over ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["B", "b", "(B)", "Answer: B", "y", "B. y", "The best answer is B.", "A or B", "Answer", ""]
)
def test_each_parser_reads_our_letter_or_nothing(text, toys):
    from lmms_eval.tasks.longvideobench import utils as longvideobench
    from lmms_eval.tasks.mlvu import utils as mlvu
    from lmms_eval.tasks.videomme import utils as videomme

    read = option_letter(text, ("x", "y"))
    for parser in (videomme.extract_characters_regex, mlvu.extract_characters_regex):
        assert parser(read or "") == (read or "")
    padded = {f"option{number}": text for number, text in enumerate(("x", "y", "N/A", "N/A", "N/A"))}
    asked = task_question({"question": "?", "correct_choice": 1, **padded}, "")
    handed = asked.unread if read is None else read
    doc = {"id": "q", "duration_group": 15, "question_category": "O2E", "correct_choice": 1, **padded}
    scored = [longvideobench.longvideobench_process_results(doc, [handed])["lvb_acc"] for _ in range(20)]
    # never a draw of its own
    assert {one["parsed_pred"] for one in scored} == {read or "C"}


@pytest.mark.parametrize(
    "text", ["[2.0, 7.5]", "from 2s to 7.5s", "starts at 2 and ends at 7.5", "00:02 - 00:07.5", "no idea"]
)
def test_the_grounding_parser_reads_our_span_or_nothing(text, toys):
    from lmms_eval.tasks.charades_sta import utils as charades
    from lmms_eval.tasks.timelens import utils as timelens

    asked = task_question({"caption": "x", "timestamp": [2, 7.5]}, "x")
    handed = asked.reduced(text)
    assert charades.extract_time(asked.unread if handed is None else handed) == (
        [] if handed is None else [[2.0, 7.5]]
    )
    assert timelens.extract_time(handed or "") == ([] if handed is None else [(2.0, 7.5)])
    key = "v>>>x>>>[2, 7.5]"
    assert charades._temporal_grounding_compute_metrics([{key: handed or ""}])["mIOU"] == (100 if handed else 0)
