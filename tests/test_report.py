"""The report shows what was chosen, to people who cannot see colours, on paper, and whatever the file is called."""

import itertools
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from ntlbg.modeling_ntlbg.selection_ntlbg import Selection
from ntlbg.report import Evidence, ReportQuestion, VideoFacts, contact_sheet, timeline_svg, write_report
from ntlbg.report.timeline import time_ticks
from ntlbg.selection.features import FrameSelection
from ntlbg.tables import clock


HOSTILE = '</style><script>alert(1)</script><img src=x onerror="alert(2)">&amp; "\' $title ${facts}'
SVG = "{http://www.w3.org/2000/svg}"


def frame_selection(k=6, candidates=60, duration=30.0, relevance=True, name="clip.mp4", query="what moves?"):
    seconds = np.arange(candidates) * duration / candidates
    positions = (np.arange(k) * candidates) // k
    cells = np.abs(np.arange(candidates)[:, None] - positions).argmin(1)
    rng = np.random.default_rng(0)
    return FrameSelection(
        indices=positions * 15,
        seconds=seconds[positions],
        weights=np.bincount(cells, minlength=k) / candidates,
        strata=[("relevance", "novelty", "coverage")[rank % 3] for rank in range(k)],
        frames=rng.integers(0, 255, (k, 36, 64, 3), dtype=np.uint8),
        positions=positions,
        candidate_indices=np.arange(candidates) * 15,
        candidate_seconds=seconds,
        cells=cells,
        mahalanobis=rng.random(candidates) * 50,
        relevance=rng.random(candidates) if relevance else None,
        requested_k=k,
        query=query,
        encoder=None,
        fps=30.0,
        total_num_frames=candidates * 15,
        duration=duration,
        height=36,
        width=64,
        name=name,
    )


def group_selection(k=3, groups=12):
    cells = torch.arange(groups) * k // groups
    indices = torch.tensor([int((cells == rank).nonzero()[0]) for rank in range(k)])
    return Selection(
        indices=indices,
        timestamps=indices.float(),
        weights=torch.bincount(cells).float() / groups,
        strata=["coverage"] * k,
        num_groups=groups,
        group_timestamps=torch.arange(groups).float(),
        mahalanobis=torch.rand(groups),
        cells=cells,
        frames_indices=torch.arange(2 * groups) * 12,
        notes=["Relevance was not used."],
    )


class Audit(HTMLParser):
    """Collects elements, and everything that would make a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.tags, self.handlers, self.sources, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("src", "href", "srcset", "data", "poster"):
                self.sources.append(value)

    def handle_data(self, data):
        self.text.append(data)


def audit(page: str) -> Audit:
    parser = Audit()
    parser.feed(page)
    return parser


def write(tmp_path, selection, **question):
    path, figures = write_report(
        tmp_path / "report.html",
        video=VideoFacts.of(selection),
        questions=[ReportQuestion(selection.query, selection, **question)],
    )
    return path.read_text(encoding="utf-8"), json.loads(figures.read_text(encoding="utf-8"))


def test_hostile_names_questions_and_answers_are_shown_as_text_and_never_run(tmp_path):
    selection = frame_selection(name=HOSTILE, query=HOSTILE)
    selection.warnings = [HOSTILE]
    page, _ = write(tmp_path, selection, answer=HOSTILE, truth=HOSTILE, timings={HOSTILE: 1.0})
    seen = audit(page)
    assert "script" not in seen.tags
    assert seen.handlers == []
    assert seen.tags.count("img") == selection.k
    # Name, question, note, answer, truth and stage: each is there to be read, letter by letter.
    assert "".join(seen.text).count(HOSTILE) >= 6
    assert page.count("alert(1)") == page.count("&lt;script&gt;alert(1)")


def test_control_characters_leave_the_page_and_the_drawing_well_formed(tmp_path):
    selection = frame_selection(query="a\x00b\x1b[2Jc\x07 \u202ed")
    page, _ = write(tmp_path, selection, answer="one\ntwo\x08")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    drawing = timeline_svg(Evidence.of(selection), 30.0, title=selection.query)
    assert ElementTree.fromstring(drawing).get("role") == "img"


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    page, _ = write(tmp_path, frame_selection())
    seen = audit(page)
    assert seen.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in seen.sources)
    assert "link" not in seen.tags
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    # The only address is the SVG name space, which no browser fetches.
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_the_page_knows_dark_screens_phones_and_paper(tmp_path):
    page, _ = write(tmp_path, frame_selection())
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    assert "max-width:640px" in page
    assert 'name="viewport"' in page


def test_the_json_beside_the_page_holds_the_same_figures(tmp_path):
    selection = frame_selection()
    page, figures = write(tmp_path, selection, answer="A dog.", truth="a dog", timings={"decode": 1.5})
    question = figures["questions"][0]
    records = question["selection"]["representatives"]
    assert [record["seconds"] for record in records] == pytest.approx(list(selection.seconds))
    assert [record["picture"] for record in records] == list(selection.indices)
    assert sum(record["weight"] for record in records) == pytest.approx(1)
    assert question["correct"] is True
    assert question["timings"] == {"decode": 1.5}
    for record in records:
        assert record["time"] in page


@pytest.mark.parametrize(
    ("answer", "truth", "correct", "expected"),
    [
        ("Red.", " red", None, True),
        ("blue", "red", None, False),
        ("B", "red", True, True),
        (None, "red", None, None),
        ("red", None, None, None),
    ],
)
def test_right_and_wrong_are_said_in_words_and_only_when_known(tmp_path, answer, truth, correct, expected):
    page, figures = write(tmp_path, frame_selection(), answer=answer, truth=truth, correct=correct)
    assert figures["questions"][0]["correct"] is expected
    assert ("✓ right" in page, "✗ wrong" in page) == (expected is True, expected is False)


def test_a_models_group_selection_is_reported_with_its_notes(tmp_path):
    selection = group_selection()
    facts = VideoFacts("clip.mp4", 12.0, 24.0, 288, 64, 36)
    path, figures = write_report(
        tmp_path / "r.html", video=facts, questions=[ReportQuestion("who?", selection, answer="me")]
    )
    page = path.read_text()
    assert "Relevance was not used." in page
    assert "3 representative groups" in page
    records = json.loads(figures.read_text())["questions"][0]["selection"]["representatives"]
    assert [record["picture"] for record in records] == [int(index) * 2 * 12 for index in selection.indices]


def test_pictures_that_do_not_match_the_selection_are_refused(tmp_path):
    selection = group_selection()
    facts = VideoFacts("clip.mp4", 12.0, 24.0, 288, 64, 36)
    question = ReportQuestion("who?", selection, frames=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="2 pictures for 3 groups"):
        write_report(tmp_path / "r.html", video=facts, questions=[question])
    with pytest.raises(ValueError, match=r"ends in \.html"):
        write_report(tmp_path / "r.txt", video=facts, questions=[question])


@pytest.mark.parametrize(
    ("k", "candidates", "duration"), [(1, 1, 0.0), (1, 3, 0.5), (6, 60, 30.0), (64, 2000, 9000.0)]
)
def test_the_timeline_marks_every_representative_by_the_shape_of_its_stratum(k, candidates, duration):
    selection = frame_selection(k, candidates, duration)
    root = ElementTree.fromstring(timeline_svg(Evidence.of(selection), duration))
    kinds = {"relevance": "circle", "novelty": "path", "coverage": "rect"}
    # Each is drawn in its lane, on the relevance curve and on the Mahalanobis curve; one more stands in the legend.
    for stratum, tag in kinds.items():
        marks = [element for element in root.iter(SVG + tag) if element.get("class") == f"{stratum} edge"]
        assert len(marks) == 3 * selection.strata.count(stratum) + 1
    text = " ".join(element.text or "" for element in root.iter(SVG + "text"))
    assert "relevance" in text
    assert "Mahalanobis" in text
    assert "mm:ss" in text


def test_nothing_is_drawn_outside_the_timeline():
    selection = frame_selection(64, 768, 3700.0)
    root = ElementTree.fromstring(timeline_svg(Evidence.of(selection), 3700.0))
    width, height = (float(value) for value in root.get("viewBox").split()[2:])
    for element in root.iter():
        x, y = element.get("x") or element.get("cx"), element.get("y") or element.get("cy")
        if x is not None:
            right = float(x) + float(element.get("width") or 0)
            assert 0 <= float(x) <= right <= width
            assert 0 <= float(y) <= float(y) + float(element.get("height") or 0) <= height


def test_labels_on_the_time_axis_never_touch():
    for end in (0.04, 0.9, 7.0, 59.9, 61.0, 3599.0, 3601.0, 86400.0):
        instants, _ = time_ticks(end)
        assert instants[0] == 0
        assert 1 <= len(instants) <= 9
        assert instants[-1] <= end * (1 + 1e-9)


def test_without_relevance_there_is_no_relevance_curve():
    with_curve = timeline_svg(Evidence.of(frame_selection(relevance=True)), 30.0)
    without = timeline_svg(Evidence.of(frame_selection(relevance=False)), 30.0)
    assert with_curve.count('class="curve"') == 2
    assert without.count('class="curve"') == 1


def test_context_windows_tile_the_video():
    evidence = Evidence.of(frame_selection(5, 47, 20.0))
    pieces = sorted(piece for windows in evidence.windows(20.0) for piece in windows)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == 20.0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))


def test_a_cell_in_several_pieces_keeps_the_piece_around_its_representative():
    selection = frame_selection(2, 8, 8.0)
    selection.cells = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    start, stop, further = Evidence.of(selection).own_window(0, 8.0)
    assert (start, stop, further) == (0.0, 2.0, 1)


def test_the_clock_carries_over_and_never_shows_sixty():
    assert clock(59.96, tenths=True) == "01:00.0"
    assert clock(59.94, tenths=True) == "00:59.9"
    assert clock(3599.99, tenths=True) == "1:00:00.0"
    assert clock(75) == "01:15"


def test_a_contact_sheet_shows_each_frame_in_reading_order(tmp_path):
    frames = np.zeros((5, 30, 40, 3), np.uint8)
    frames[:, :, :] = np.array([[10, 0, 0], [60, 0, 0], [110, 0, 0], [160, 0, 0], [210, 0, 0]])[:, None, None]
    path = tmp_path / "sheet.png"
    sheet = contact_sheet(frames, ["label"] * 5, path, width=100, columns=3)
    assert Image.open(path).size == sheet.size
    pixels = np.asarray(sheet)
    centres = [(12 + 37 + row * (75 + 26 + 12), 12 + 50 + column * 112) for row in (0, 1) for column in (0, 1, 2)]
    assert [int(pixels[centre][0]) for centre in centres[:5]] == [10, 60, 110, 160, 210]


def test_a_long_label_stays_inside_its_own_cell():
    frames = np.zeros((2, 30, 40, 3), np.uint8)
    short = np.asarray(contact_sheet(frames, ["x", "y"], width=100, columns=2))
    long = np.asarray(contact_sheet(frames, ["W" * 80, "y"], width=100, columns=2))
    assert (short[:, 12 + 100 :] == long[:, 12 + 100 :]).all()
    assert (short[:, : 12 + 100] != long[:, : 12 + 100]).any()


def test_a_contact_sheet_refuses_labels_that_do_not_match():
    with pytest.raises(ValueError, match="2 frames, 1 labels"):
        contact_sheet(np.zeros((2, 8, 8, 3), np.uint8), ["only one"])
    with pytest.raises(ValueError, match="at least one frame"):
        contact_sheet([], [])
