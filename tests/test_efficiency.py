"""What an answer costs: the ratios by hand, and the bench whole on a shape of a few thousand weights."""

import json

import numpy as np
import pytest

from ntlbg.evaluation import candidates_cost, efficiency
from ntlbg.evaluation.efficiency import compare, equal_accuracy, main, speed_up


SHAPE = {
    "text": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "vision": {
        "depth": 1,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
    },
    "clip_vision": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 16,
        "image_size": 32,
    },
    "side": 56,
    "dtype": "float32",
    "device": "cpu",
}


def test_equal_accuracy_is_the_fewest_even_groups_that_are_as_good():
    even = {4: [10.0, 20.0], 8: [50.0, 40.0], 16: [90.0, 80.0]}
    matched = equal_accuracy({"ours": {8: [60.0, 40.0]}, "even": even})
    assert matched == {"groups": 16, "draws": [16, 8]}
    assert equal_accuracy({"ours": {8: [95.0, 95.0]}, "even": even}) == {"groups": None, "draws": [None, None]}


def test_the_speed_up_is_at_least_that_over_all_groups_where_even_ones_never_get_as_good():
    seconds = {4: 1.0, 8: 2.0, 16: 6.0}
    held = speed_up(seconds, 2.0, {"groups": 8, "draws": [8, 16]})
    assert (held["ratio"], held["at_least"]) == (1.0, False)
    assert (held["low"], held["high"]) == (pytest.approx(1.05), pytest.approx(2.95))
    never = speed_up(seconds, 2.0, {"groups": None, "draws": [None, None]})
    assert (never["ratio"], never["at_least"]) == (3.0, True)


def frames(tmp_path):
    """Accuracies as `frames_benchmark` writes them, made up."""
    row = {"macro": 90.0, "accuracy": {"count": 90.0}}
    result = {
        "selectors": {
            "ntlbg": {"4": row, "8": row},
            "uniform": {"4": row, "8": row},
            "oracle": {"8": row},
            "all": {"16": row},
        },
        "draws": {"ntlbg": {"8": [90.0]}, "uniform": {"4": [40.0], "8": [50.0]}, "all": {"16": [91.0]}},
        "seconds": 32,
        "groups": [8],
        "candidates": 32,
        "candidate_fps": 1.0,
        "commit": "made up",
    }
    path = tmp_path / "frames.json"
    path.write_text(json.dumps(result))
    return result, path


def test_memory_saved_counts_weights_and_says_what_is_saved_above_them(tmp_path):
    def case(way, groups, peak):
        return {
            "way": way,
            "groups": groups,
            "end_to_end": float(groups),
            "language_model": float(groups),
            "peak_mib": peak,
            "weights_mib": 100.0,
        }

    accuracies, _ = frames(tmp_path)
    compared = compare(accuracies, [case("ntlbg", 8, 120.0), case("even", 8, 120.0), case("even", 16, 300.0)])
    assert compared["memory_saved"] == pytest.approx(0.6)
    assert compared["memory_saved_above_weights"] == pytest.approx(0.9)
    assert compared["speed"]["end_to_end"]["ratio"] == 2.0
    assert compared["groups_for_equal_accuracy"] == 16


def test_the_bench_runs_whole_on_a_small_shape(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficiency, "FPS", 2)
    monkeypatch.setattr(efficiency, "SIDE", 112)
    _, accuracies = frames(tmp_path)
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(SHAPE))
    small = [
        "--shape",
        str(shape),
        "--repeats",
        "1",
        "--threads",
        "1",
        "--films",
        str(tmp_path),
        "--work",
        str(tmp_path),
    ]
    main(["--frames", str(accuracies), *small, "--out", str(tmp_path / "efficiency")])
    result = json.loads((tmp_path / "efficiency.json").read_text())
    cases = {(case["way"], case["groups"]): case for case in result["cases"]}
    assert set(cases) == {("ntlbg", 8), ("ntlbg one look", 8), ("even", 8), ("even", 16)}
    # Exact operations: the language model's grow with the groups it reads, and are the same however they were chosen,
    # but for the moments of the video that groups given from outside still need.
    prefill = {key: case["flops"]["prefill"] for key, case in cases.items()}
    assert prefill["even", 8] < prefill["even", 16]
    assert np.isclose(prefill["ntlbg one look", 8], prefill["even", 8], rtol=0.2)
    assert np.isclose(cases["ntlbg", 8]["flops"]["vision tower"], cases["even", 8]["flops"]["vision tower"])
    assert cases["ntlbg one look", 8]["flops"]["vision tower"] == cases["even", 16]["flops"]["vision tower"]
    assert all(case["peak_mib"] >= case["weights_mib"] > 0 for case in cases.values())
    assert "promised 2.5" in (tmp_path / "efficiency.md").read_text()
    assert (tmp_path / "efficiency.png").stat().st_size > 10_000
    capsys.readouterr()


def test_the_cost_of_candidates_is_told_for_all_of_them_and_for_the_chosen_few(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(efficiency, "FPS", 2)
    monkeypatch.setattr(efficiency, "SIDE", 112)
    shape = tmp_path / "shape.json"
    shape.write_text(json.dumps(SHAPE))
    # No patience at all: what has run once is not repeated.
    small = ["--shape", str(shape), "--repeats", "2", "--patience", "0", "--threads", "1", "--films", str(tmp_path)]
    candidates_cost.main([*small, "--candidates", "32", "--groups", "4", "--out", str(tmp_path / "candidates")])
    cases = json.loads((tmp_path / "candidates.json").read_text())["cases"]
    shown = [(case["way"], case["candidates"], case["groups"], case["tokens"]) for case in cases]
    assert shown == [("ntlbg", 32, 4, 16), ("even", 32, 16, 64)]
    assert [len(case["seconds"]) for case in cases] == [1, 1]
    assert "| 32 | all frames | 16 | 64 |" in (tmp_path / "candidates.md").read_text()
    assert (tmp_path / "candidates.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        candidates_cost.main(["--candidates", "7"])
    assert "candidates come in groups of two, 6400 at most, but --candidates has [7]" in capsys.readouterr().err


def test_what_does_not_fit_into_memory_is_said_in_its_row(monkeypatch):
    def full(case):
        raise RuntimeError("even with 16 groups failed: torch.OutOfMemoryError: CUDA out of memory")

    monkeypatch.setattr(candidates_cost, "measure", full)
    cases = candidates_cost.run_cases(SHAPE, [32], 4, {})
    assert [case["failed"] for case in cases] == ["out of memory"] * 2
