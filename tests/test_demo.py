"""The demo does what the README says it does."""

import json

from ntlbg.demo import TINY, run_demo
from ntlbg.selection.answering import load_answerer


def test_the_demo_answers_from_its_moments_and_leaves_a_page_and_its_figures(tmp_path, capsys):
    answerer = load_answerer(str(TINY), device="cpu", max_new_tokens=8)
    share = run_demo(answerer, 4321, tmp_path)
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "demo-4321.json").read_text())
    page = (tmp_path / "demo-4321.html").read_text()
    assert (tmp_path / "demo-4321.mp4").stat().st_size > 100_000
    assert len(figures["questions"]) >= 6
    assert share >= 0.75, "one video is little, but fewer than six of eight right is no accident"
    for question in figures["questions"]:
        assert question["question"] in printed
        assert question["truth"] in printed
        assert question["timings"]
    assert page.count('<div class="sheet">') == page.count("<section") == len(figures["questions"])
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
