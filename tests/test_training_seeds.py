"""Several trainings as one: the figures by hand, and the bench whole on checkpoints with fresh selectors."""

import json

import numpy as np
import pytest

from ntlbg.evaluation.training_seeds import best_rival, main, pooled
from ntlbg.modeling_ntlbg.modeling_ntlbg import NTLBGForConditionalGeneration
from ntlbg.training import fresh_selector


TINY = "checkpoints/ntlbg-tiny"


def summary(**macros):
    """Of a checkpoint whose bootstrap draws all are its macro averages."""
    rows = {name: {"8": {"macro": macro, "macro_draws": np.full(2000, macro)}} for name, macro in macros.items()}
    return {"selectors": rows}


def test_trainings_are_pooled_by_hand():
    rules = pooled([summary(ntlbg=90.0, uniform=50.0, top_k=70.0), summary(ntlbg=80.0, uniform=50.0, top_k=74.0)], 8)
    assert rules["ntlbg"]["macro"] == [90.0, 80.0]
    assert (rules["ntlbg"]["mean"], rules["ntlbg"]["sd"]) == (85.0, pytest.approx(50**0.5))
    # One training leads by 20, one by 6: where the same one is drawn twice, that is the difference.
    assert rules["top_k"]["ours_less"] == [6.0, 20.0]
    assert rules["uniform"]["ours_less"] == [30.0, 40.0]
    assert rules["ntlbg"]["ours_less"] == [0.0, 0.0]
    assert best_rival(rules) == "top_k"


def test_a_fresh_selector_keeps_the_base_and_no_two_seeds_are_alike(tmp_path):
    for seed in (1, 2):
        fresh_selector.main([TINY, "--seed", str(seed), "--out", str(tmp_path / str(seed))])
    trained, one, two = (
        NTLBGForConditionalGeneration.from_pretrained(name).state_dict()
        for name in (TINY, tmp_path / "1", tmp_path / "2")
    )
    differing = {name for name in one if not one[name].equal(two[name])}
    assert differing
    assert not any(name.startswith("vlm.") for name in differing)
    assert all(one[name].equal(trained[name]) for name in one if name.startswith("vlm."))


def test_the_bench_runs_whole_and_asks_nothing_twice(tmp_path, capsys, monkeypatch):
    fresh_selector.main([TINY, "--seed", "1", "--out", str(tmp_path / "fresh")])
    few = [TINY, str(tmp_path / "fresh"), "--work", str(tmp_path), "--out", str(tmp_path / "seeds"), "-k", "4"]
    main([*few, "--videos", "1"])
    first = json.loads((tmp_path / "seeds.json").read_text())["rules"]
    assert {len(row["macro"]) for row in first.values()} == {2}
    assert "Over 2 trainings ntlbg has a macro average" in (tmp_path / "seeds.md").read_text()
    assert (tmp_path / "seeds.png").stat().st_size > 10_000
    monkeypatch.setattr("ntlbg.evaluation.training_seeds.run_video", None)
    main([*few, "--videos", "1"])
    assert json.loads((tmp_path / "seeds.json").read_text())["rules"] == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TINY], "give two checkpoints or more, no two of them alike"),
        ([TINY, TINY], "give two checkpoints or more, no two of them alike"),
        ([TINY, "nowhere"], "'nowhere' is none"),
        ([TINY, TINY, "--videos", "0"], "--videos is 1 or more"),
        ([TINY, TINY, "-k", "129"], "-k 1 to 128, not 100 and 129"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_done(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--work", str(tmp_path), "--out", str(tmp_path / "seeds")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
