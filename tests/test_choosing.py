"""Any selector by its name, in `select_frames`, in the answerers and on the command line."""

import json

import numpy as np
import pytest
import torch

from ntlbg.cli import main
from ntlbg.data.world import build_video
from ntlbg.data.world_video import write_video
from ntlbg.errors import InputError
from ntlbg.selection.answering import load_answerer
from ntlbg.selection.api import FrameSelector, select_frames
from ntlbg.selection.baselines import BASELINES
from ntlbg.selection.choosing import SELECTORS, choose_by, given_selection


TINY = "checkpoints/ntlbg-tiny"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "video.mp4"
    write_video(build_video(3, 128), path, fps=1, size=56)
    return path


def test_every_selector_chooses_distinct_sorted_groups_from_scores_alone():
    generator = torch.Generator().manual_seed(0)
    descriptors, scores = torch.randn(40, 8, generator=generator), torch.randn(40, generator=generator)
    for name in SELECTORS[1:]:
        chosen = choose_by(name, descriptors, 6, scores)
        assert len(chosen) == 6, name
        assert (np.diff(chosen) > 0).all(), name


def test_scores_take_the_place_of_the_cosines():
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(60, 8)).astype(np.float32)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    query = frames[7]
    for name in ("top_k", "aks", "mdp3", "facility_location", "wfs_sb"):
        by_query = BASELINES[name](frames, query, 8)
        assert np.array_equal(by_query, BASELINES[name](frames, None, 8, scores=frames @ query)), name


@pytest.mark.parametrize(
    ("scores", "said"),
    [(np.zeros(3), "one finite number per frame"), (np.full(60, np.nan), "not finite")],
)
def test_scores_that_are_none_are_refused(scores, said):
    with pytest.raises(InputError, match=said):
        BASELINES["top_k"](np.eye(60, dtype=np.float32), None, 4, scores=scores)


def test_a_selector_that_ranks_needs_a_judge():
    with pytest.raises(InputError, match="nothing here judges"):
        choose_by("aks", torch.randn(20, 4), 4)
    with pytest.raises(InputError, match="there is no selector 'best'"):
        choose_by("best", torch.randn(20, 4), 4)


def test_the_shares_of_a_given_choice_are_of_time():
    durations = torch.tensor([1.0, 1.0, 1.0, 1.0, 8.0, 8.0])
    seconds = durations.cumsum(0) - durations
    selection = given_selection("uniform", torch.randn(6, 4), seconds, 2, durations=durations)
    assert selection.indices.tolist() == [1, 4]
    assert selection.cells.tolist() == [0, 0, 0, 1, 1, 1]
    assert selection.weights.tolist() == pytest.approx([3 / 20, 17 / 20])
    assert selection.strata == ["given", "given"]


def test_a_black_video_is_no_trouble():
    for name in SELECTORS[1:]:
        assert len(choose_by(name, torch.zeros(12, 4), 3, torch.zeros(12))) == 3, name


def test_select_frames_by_another_rule_reads_those_frames(video):
    selection = select_frames(video, k=4, selector="uniform")
    expected = FrameSelector(None).encode(video).candidate_indices
    assert np.array_equal(selection.indices, expected[(2 * np.arange(4) + 1) * len(expected) // 8])
    assert selection.strata == ["given"] * 4
    assert "rule `uniform`" in selection.warnings[-1]
    assert selection.frames.shape == (4, 56, 56, 3)


def test_the_tiny_model_answers_from_what_another_rule_chose(video):
    question = "How many scenes does the video have?"
    chosen = {}
    for name in ("ntlbg", "uniform", "top_k"):
        answer = load_answerer(TINY, device="cpu", selector=name, max_new_tokens=4).open(video).ask(question, 4)
        chosen[name] = answer.selection.indices.tolist()
        assert answer.num_groups == 4
    assert chosen["uniform"] == [8, 24, 40, 56]
    relevance = answer.selection.relevance
    assert chosen["top_k"] == relevance.topk(4).indices.sort().values.tolist()


def test_the_command_line_reports_another_rules_choice(video, tmp_path, capsys):
    report = tmp_path / "report.html"
    rule = ["-k", "4", "--selector", "farthest_point"]
    outputs = ["--report", str(report), "--out", str(tmp_path / "shots"), "--quiet", "--no-cache"]
    assert main(["select", str(video), *rule, *outputs]) == 0
    printed = capsys.readouterr()
    assert "4 given" in printed.out
    assert "rule `farthest_point`" in printed.err
    page = json.loads(report.with_suffix(".json").read_text())["questions"][0]["selection"]
    assert {row["stratum"] for row in page["representatives"]} == {"given"}
    assert "another rule chose it" in report.read_text()
    assert "it answers to the question" not in report.read_text()


def test_a_wrong_selector_is_one_sentence(video, capsys):
    assert main(["select", str(video), "--selector", "best", "--quiet"]) == 2
    assert "there is no selector 'best'; give one of ntlbg, uniform" in capsys.readouterr().err
