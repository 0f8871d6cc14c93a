"""`ntlbg bench real`: what is scored and counted, that a cut run goes on, and the command on real models and files."""

import csv
import json

import pytest
from tiny_models import tiny_base
from tiny_parts import tiny_base_processor

from ntlbg.cli import main
from ntlbg.data.qa_records import LETTERS
from ntlbg.data.world_dataset import write_split
from ntlbg.errors import InputError
from ntlbg.evaluation.ledger import Ledger
from ntlbg.evaluation.rows_benchmark import KEY, Setting, in_rotations, prompt_of, score, spans_seen, summarise


TINY = "checkpoints/ntlbg-tiny"
UNIFORM, OURS = Setting("uniform", 8), Setting("ntlbg", 8)
CHOICE = {"question": "Which?", "options": ["a cat", "a dog"], "answer": "a dog", "answer_index": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return write_split("validation", 2, folder, fps=1, size=56, duration=128, wording="heldout")


def test_a_choice_is_right_by_its_letter_and_what_names_none_is_counted():
    assert prompt_of(CHOICE).splitlines()[1:3] == ["A. a cat", "B. a dog"]
    assert score(CHOICE, "B") == (True, True)
    assert score(CHOICE, "(A) a cat") == (False, True)
    assert score(CHOICE, "I cannot tell") == (False, False)
    assert score({"question": "How many?", "answer": "Three"}, " three.") == (True, True)
    assert score({"question": "How many?", "answer": "three"}, "") == (False, False)


def test_evidence_is_seen_where_a_moment_lies_in_it_or_right_before_a_short_one():
    row = {"spans": [[10, 20], [30.5, 31]]}
    assert spans_seen(row, [12, 40], step=1.0) == 0.5
    assert spans_seen(row, [12, 30], step=1.0) == 1.0
    assert spans_seen(row, [20, 31], step=1.0) == 0.0
    # A long one is seen from within only.
    assert spans_seen({"spans": [[100, 200]]}, [93.1], step=7.0) == 0.0
    assert spans_seen({"spans": [[100, 106]]}, [93.1], step=7.0) == 1.0
    assert spans_seen({"spans": []}, [12], step=1.0) is None
    assert spans_seen({}, [12], step=1.0) is None


def rows_of(count):
    return [
        {
            "id": str(number),
            "video_id": f"v{number // 2}",
            "question": "Is it?",
            "answer": "yes",
            "duration": 30.0 if number % 2 else 700.0,
            "answer_type": "count",
            "spans": [[0, 1]],
        }
        for number in range(count)
    ]


def answered(ledger, row, setting, right):
    said = "yes" if right else "no"
    if "options" in row:
        said = LETTERS[(row["answer_index"] + (not right)) % len(row["options"])]
    facts = {"answer": said, "seen": 1.0, "seconds": 0.1, "look": 0.2, "shown": 8}
    ledger.add({"id": row["id"], "selector": setting.selector, "k": setting.k, **facts})


def test_the_table_is_that_of_hand_counted_answers(tmp_path):
    rows, ledger = rows_of(8), Ledger(tmp_path / "answers.jsonl", {}, KEY)
    for number, row in enumerate(rows):
        answered(ledger, row, UNIFORM, number < 2)
        answered(ledger, row, OURS, number < 6)
    table = summarise(rows, [UNIFORM, OURS], ledger)["settings"]
    assert table["uniform, 8"]["accuracy"] == 25
    assert table["uniform, 8"]["less_first"] is None
    assert table["ntlbg, 8"]["less_first"][0] == 50
    assert table["ntlbg, 8"]["lengths"] == {"0 to 1 min": [3, 4], "10 to 60 min": [3, 4]}
    assert table["ntlbg, 8"]["pieces"] == {"1": [6, 8]}
    low, high = table["ntlbg, 8"]["less_first"][1:]
    assert low < 50 < high


def test_a_question_is_right_in_all_rotations_or_not_at_all_by_hand(tmp_path):
    options = [["a", "b"], ["a", "b", "c", "d"], None, ["a", "b"]]
    rows = [row | {"metadata": {}} for row in rows_of(4)]
    rows = [
        row if some is None else row | {"options": some, "answer_index": 1}
        for row, some in zip(rows, options, strict=True)
    ]
    asked, ledger = in_rotations(rows), Ledger(tmp_path / "answers.jsonl", {}, KEY)
    assert [row["id"] for row in asked] == ["0#0", "0#1", "1#0", "1#1", "1#2", "1#3", "2", "3#0", "3#1"]
    for row in asked:
        answered(ledger, row, UNIFORM, row["id"] in ("0#0", "0#1", "1#0", "1#1", "1#2", "2"))
        answered(ledger, row, OURS, row["id"] != "3#1")
    table = summarise(asked, [UNIFORM, OURS], ledger, circular=True)
    assert (table["asked"], table["with_options"], table["videos"]) == (4, 3, 2)
    assert table["chance"] == pytest.approx([100 * (0.5 + 0.25 + 0.5) / 3, 100 * (0.25 + 0.25**4 + 0.25) / 3])
    even, ours = table["settings"].values()
    assert even["accuracy"] == 100 * (1 + 0.75 + 1 + 0) / 4
    assert even["circular"]["accuracy"] == pytest.approx(100 / 3)
    assert ours["accuracy"] == 100 * (1 + 1 + 1 + 0.5) / 4
    assert ours["circular"]["accuracy"] == pytest.approx(200 / 3)
    assert ours["circular"]["less_first"][0] == pytest.approx(100 / 3)
    assert ours["circular"]["types"] == {"count": [2, 3]}
    with pytest.raises(InputError, match="none of the 1 has any; leave out --circular"):
        in_rotations(rows[2:3])


def test_videos_that_cannot_be_read_are_told_and_left_out_of_every_selector(tmp_path):
    rows, ledger = rows_of(4), Ledger(tmp_path / "answers.jsonl", {}, KEY)
    for row in rows:
        answered(ledger, row, UNIFORM, True)
    for row in rows[:2]:
        ledger.add({"id": row["id"], "selector": "ntlbg", "k": 8, "error": "it is broken"})
    for row in rows[2:]:
        answered(ledger, row, OURS, True)
    result = summarise(rows, [UNIFORM, OURS], ledger)
    assert result["left_out"] == {"it is broken": 2}
    assert result["asked"] == 2
    with pytest.raises(InputError, match="none of the 2 rows has a video that can be read: it is broken"):
        summarise(rows[:2], [OURS], ledger)


def test_answers_of_other_settings_are_not_taken_for_these(tmp_path):
    path = tmp_path / "answers.jsonl"
    answered(Ledger(path, {"model": "a"}, KEY), rows_of(1)[0], OURS, True)
    with path.open("a") as file:
        file.write('{"id": "1", "sel')
    assert len(Ledger(path, {"model": "a"}, KEY).lines) == 1
    assert path.read_text().count("\n") == 2
    with pytest.raises(InputError, match="something else \\(other model\\)"):
        Ledger(path, {"model": "b"}, KEY)
    for strange in ("not ours\n", "[]\n", '{"model": "a"}\n{"id": "1"}\n', '{"model": "a"}\n[]\n', "\n"):
        path.write_text(strange)
        with pytest.raises(InputError, match="no results of this bench"):
            Ledger(path, {"model": "a"}, KEY)


def test_the_command_compares_and_goes_on_where_it_was_cut(world, tmp_path, capsys):
    out = tmp_path / "bench"
    command = ["bench", "real", str(world), "--model", TINY, "-k", "4", "--out", str(out), "--quiet"]
    assert main([*command, "--max-new-tokens", "4"]) == 0
    whole = json.loads((out / "table.json").read_text())
    lines = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    # As if it had been stopped after a few answers, in the middle of a line.
    (out / "answers.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    assert main([*command, "--max-new-tokens", "4"]) == 0
    again = json.loads((out / "table.json").read_text())
    for name, row in whole["settings"].items():
        kept = ("accuracy", "seen", "types", "less_first")
        assert {key: again["settings"][name][key] for key in kept} == {key: row[key] for key in kept}
    assert whole["settings"]["ntlbg, 4"]["seen"] > whole["settings"]["uniform, 4"]["seen"]
    assert "| ntlbg, 4 |" in capsys.readouterr().out
    assert (out / "table.png").stat().st_size > 5_000
    assert main([*command, "--max-new-tokens", "5"]) == 2
    assert "other max_new_tokens" in capsys.readouterr().err


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    """Rows with options and captions about one video."""
    folder = tmp_path_factory.mktemp("choices")
    return write_split("validation", 1, folder, fps=1, size=56, duration=128, options=True, captions=True)


def test_the_command_asks_in_all_rotations_and_goes_on_where_it_was_cut(choices, tmp_path, capsys):
    out = tmp_path / "bench"
    command = ["bench", "real", str(choices), "--model", TINY, "-k", "4", "--selectors", "ntlbg", "--circular"]
    command += ["--max-new-tokens", "3", "--out", str(out), "--quiet"]
    assert main(command) == 0
    whole = json.loads((out / "table.json").read_text())
    lines = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in choices.read_text().splitlines()]
    assert len(lines) == 1 + sum(len(row["options"]) for row in rows)
    (out / "answers.jsonl").write_text("".join(lines[:4]) + lines[4][:30])
    assert main(command) == 0
    again = json.loads((out / "table.json").read_text())
    (before,), (after,) = whole["settings"].values(), again["settings"].values()
    assert (before["accuracy"], before["circular"]) == (after["accuracy"], after["circular"])
    assert before["circular"]["accuracy"] <= before["accuracy"]
    assert whole["asked"] == whole["with_options"] == len(rows)
    # Nothing that was kept was asked again.
    kept = (out / "answers.jsonl").read_text().splitlines(keepends=True)
    assert kept[:4] == lines[:4]
    assert len(kept) == len(lines)
    page = (out / "table.md").read_text()
    assert "| right in all rotations, % |" in page
    assert "in all rotations, %, by type of question" in page
    assert "--circular" in page
    capsys.readouterr()


def test_what_is_said_reaches_the_model_in_the_variant_that_says_so(choices, tmp_path, capsys):
    rows = [json.loads(line) for line in choices.read_text().splitlines()]
    for row in rows:
        row["video_path"] = str(choices.parent / row["video_path"])
    silent = [{key: row[key] for key in row if key != "subtitles"} for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows[:2], *silent[2:])))
    command = ["bench", "real", str(path), "--model", TINY, "-k", "4", "--selectors", "ntlbg", "--quiet"]
    command += ["--max-new-tokens", "3"]
    answers = []
    for name, flags in (("without", []), ("with", ["--subtitles", "--subtitle-seconds", "2"])):
        assert main([*command, *flags, "--out", str(tmp_path / name)]) == 0
        lines = (tmp_path / name / "answers.jsonl").read_text().splitlines()[1:]
        answers.append([json.loads(line)["answer"] for line in lines])
    before, after = answers
    # What the model says changes where it is told something, and only there.
    assert before[:2] != after[:2]
    assert before[2:] == after[2:]
    page = (tmp_path / "with" / "table.md").read_text()
    assert f"# Selectors on {path}, with subtitles" in page
    assert "up to 2 s from one: 2 of the rows have subtitles" in page
    assert main([*command, "--subtitles", "--out", str(tmp_path / "without")]) == 2
    assert "other subtitles" in capsys.readouterr().err


def test_any_model_on_a_benchmark_as_published(world, tmp_path, capsys):
    """Random weights of a real class, images instead of a video, NExT-QA's own file."""
    videos = sorted((world.parent / "videos").glob("*.mp4"))
    annotations = tmp_path / "val.csv"
    with annotations.open("w", newline="") as file:
        writer = csv.writer(file)
        options = [f"a{number}" for number in range(5)]
        writer.writerow(["video", "frame_count", "width", "height", "question", "answer", "qid", "type", *options])
        for number, video in enumerate(videos):
            writer.writerow([video.stem, 128, 56, 56, "what happens", number, number, "CW", *"pqrst"])
    model, processor = tmp_path / "model", tiny_base_processor("qwen2_vl")
    tiny_base("qwen2_vl", processor.tokenizer).save_pretrained(model)
    processor.save_pretrained(model)
    out = tmp_path / "bench"
    command = ["bench", "real", "nextqa", "--annotations", str(annotations), "--videos", str(videos[0].parent)]
    command += ["--model", str(model), "--encoder", "none", "--selectors", "uniform", "k_means", "-k", "2", "--quiet"]
    assert main([*command, "--max-new-tokens", "2", "--out", str(out)]) == 0
    result = json.loads((out / "table.json").read_text())
    assert result["asked"] == len(videos)
    assert set(result["settings"]) == {"uniform, 2", "k_means, 2"}
    assert 0 <= result["settings"]["uniform, 2"]["unread"] <= 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--selectors", "best"], "there is no selector 'best'"),
        (["--selectors", "uniform", "uniform"], "named twice"),
        (["--annotations", "x.json"], "--annotations goes with a benchmark's name"),
        (["--circular"], "needs rows with options, but none of the"),
        (["--subtitles"], "rows has subtitles; leave out --subtitles"),
        (["--subtitle-seconds", "2"], "--subtitle-seconds needs --subtitles"),
    ],
)
def test_bad_commands_are_one_sentence(world, tmp_path, capsys, arguments, said):
    assert main(["bench", "real", str(world), "--model", TINY, "--out", str(tmp_path / "o"), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_answers_of_other_rows_of_the_same_ids_are_refused(world, choices, tmp_path, capsys):
    """The rows with options are called what those without are."""
    command = ["--model", TINY, "-k", "2", "--selectors", "uniform", "--max-rows", "1", "--out", str(tmp_path)]
    assert main(["bench", "real", str(world), *command, "--quiet"]) == 0
    assert main(["bench", "real", str(choices), *command, "--quiet"]) == 2
    assert "results of something else (other rows)" in capsys.readouterr().err


def test_rows_that_were_changed_are_asked_anew_and_scored_by_what_they_say_now(choices, tmp_path, capsys):
    row = json.loads(choices.read_text().splitlines()[0])
    row["video_path"] = str(choices.parent / row["video_path"])
    path = tmp_path / "rows.jsonl"

    def asked(**changes) -> tuple[float, int]:
        path.write_text(json.dumps(row | changes) + "\n")
        command = ["bench", "real", str(path), "--model", TINY, "-k", "8", "--selectors", "ntlbg", "--quiet"]
        assert main([*command, "--max-new-tokens", "3", "--out", str(tmp_path / "out")]) == 0
        capsys.readouterr()
        (result,) = json.loads((tmp_path / "out" / "table.json").read_text())["settings"].values()
        return result["accuracy"], len((tmp_path / "out" / "answers.jsonl").read_text().split("\n")) - 2

    # Another right answer is no other question; the model is not asked again.
    changes = [{"answer": one, "answer_index": at, "id": "a\u2028b"} for at, one in enumerate(row["options"])]
    accuracies = [asked(**change) for change in changes]
    assert sorted(share for share, _ in accuracies)[:-1] == [0.0] * (len(row["options"]) - 1)
    assert {lines for _, lines in accuracies} == {1}
    options = ["none", *row["options"][1:]]
    assert asked(options=options, answer=options[1], answer_index=1, id="a\u2028b")[1] == 2


def test_a_broken_video_is_left_out_and_the_exit_code_says_so(world, tmp_path, capsys):
    rows = [json.loads(line) for line in world.read_text().splitlines()]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for row in rows:
        row["video_path"] = str(world.parent / row["video_path"])
    rows.append({**rows[0], "id": "b", "video_id": "broken", "video_path": str(broken)})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["bench", "real", str(path), "--model", TINY, "-k", "2", "--max-new-tokens", "2", "--quiet"]
    assert main([*command, "--selectors", "uniform", "--out", str(tmp_path / "out")]) == 1
    assert "1 of the rows left out" in capsys.readouterr().out
    # It is tried again, once it has been mended.
    broken.write_bytes((world.parent / json.loads(world.read_text().splitlines()[0])["video_path"]).read_bytes())
    assert main([*command, "--selectors", "uniform", "--out", str(tmp_path / "out")]) == 0
    assert "left out" not in capsys.readouterr().out


def test_the_projects_own_benches_take_their_own_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "needles", "--help"])
    assert "--needle-seconds" in capsys.readouterr().out
