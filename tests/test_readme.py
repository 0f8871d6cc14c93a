"""The README's code runs as it stands, on tiny models of the real classes; its links lead somewhere."""

import re
from pathlib import Path

import pytest
from strangers import write_clip
from tiny_encoders import save_encoder
from tiny_models import tiny_base
from tiny_parts import moving_square, tiny_base_processor

from ntlbg.evaluation.readme_rows import END, START, to_table
from ntlbg.evaluation.readme_rows import main as write_rows


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_its_python_runs(block, tmp_path, monkeypatch):
    processor = tiny_base_processor("qwen2_vl")
    tiny_base("qwen2_vl", processor.tokenizer).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    save_encoder("siglip", tmp_path / "encoder")
    write_clip(tmp_path / "talk.mp4", moving_square(64))
    (tmp_path / "talk.srt").write_text("1\n00:00:00,100 --> 00:00:00,500\nLook here.\n")
    code = block.replace("Qwen/Qwen2-VL-7B-Instruct", "./base").replace("google/siglip2-base-patch16-224", "./encoder")
    if "select_frames" in code:
        monkeypatch.setattr("ntlbg.selection.api.DEFAULT_ENCODER", "./encoder")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_its_rows_of_benches_say_what_the_benches_found():
    written = README.split(START)[1].split(END)[0].strip()
    assert written == to_table(ROOT / "docs" / "benchmarks"), "run `make readme`"


def test_rows_of_a_bench_that_is_missing_or_from_elsewhere_are_told(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(f"{START}\nold\n{END}\n")

    def refused() -> str:
        with pytest.raises(SystemExit) as ended:
            write_rows([str(page), "--benchmarks", str(tmp_path)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "efficiency.json" in refused()
    (tmp_path / "efficiency.json").write_text("{}")
    assert "is not what `make bench-efficiency` writes today" in refused()
    assert page.read_text() == f"{START}\nold\n{END}\n"


def test_both_commands_stand_on_the_first_screen():
    first_screen = README.split("---", 2)[2].strip().splitlines()[:16]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)
