"""What is released: an sdist that holds the repository, and a wheel that runs where nothing else of it is."""

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from lowest import LEFT_OUT, pins
from tiny_encoders import scenes, write_video


ROOT = Path(__file__).parents[1]
# Of the repository, not of a release: hooks and continuous integration.
NOT_RELEASED = (".ci/", ".gitignore", ".pre-commit-config.yaml", ".gitattributes")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(sdist, wheel) of the committed and uncommitted files that git knows; the wheel is built from the sdist."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", "77")
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return next((folder / "dist").glob("*.tar.gz")), next((folder / "dist").glob("*.whl"))


def tracked() -> list[str]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_the_sdist_holds_what_the_repository_holds(released):
    with tarfile.open(released[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in tracked() if name not in held and not name.startswith(NOT_RELEASED)] == []
    assert not [name for name in held if name.endswith(".pyc")]


def test_the_wheel_holds_every_module_and_data_file_under_one_name(released):
    mounted = ("configuration", "modeling_ntlbg", "processors", "ds_configs")
    expected = set()
    for name in tracked():
        top = name.split("/")[0]
        # The rest of configuration/ belongs to the training of the embedded checkpoint.
        if top == "ntlbg" or (top in mounted and (name.endswith(".py") or name.count("/") > 1 or top == "ds_configs")):
            expected.add(name if top == "ntlbg" else f"ntlbg/{name}")
    with zipfile.ZipFile(released[1]) as archive:
        held = set(archive.namelist())
    assert expected - held == set()
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"ntlbg"}


def test_the_wheel_runs_where_nothing_else_of_the_project_is(released, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True, symlinks=True)
    python = environment / "bin" / "python"
    packages = next(environment.glob("lib/python*/site-packages"))
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(released[1])]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    # The libraries are those of this environment, without our own editable install.
    (packages / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*arguments):
        return subprocess.run(
            [str(python), *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )

    where = run("-c", "import ntlbg, ntlbg.modeling_ntlbg.modeling_ntlbg as m; print(ntlbg.__file__, m.__file__)")
    assert where.returncode == 0, where.stderr
    assert where.stdout.count(str(packages)) == 2
    assert run(str(environment / "bin" / "ntlbg"), "--version").stdout == "ntlbg 0.1.0\n"
    assert "ntlbg select" in run("-m", "ntlbg", "--help").stdout
    clip = write_video(tmp_path / "scenes.mp4", scenes())
    selected = run("-m", "ntlbg", "select", str(clip), "-k", "3", "--report", str(tmp_path / "r.html"), "--no-cache")
    assert selected.returncode == 0, selected.stderr
    assert "3 frames of 16 candidates" in selected.stdout
    configured = run(
        "-m", "ntlbg", "config", "generate", "--category", "long", "--gpu", "A100_40GB", "--out", "c.json"
    )
    assert configured.returncode == 0, configured.stderr
    demo = run("-m", "ntlbg.demo")
    assert demo.returncode == 2
    assert "not of the wheel; run this in a checkout" in demo.stderr
    assert demo.stderr.count("\n") == 1


def test_every_requirement_has_a_lower_bound():
    assert f"transformers=={_bound('transformers')}" in pins(ROOT / "setup.cfg")
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert [name for name in LEFT_OUT if f"\n    {name}>=" not in text] == []


def _bound(name: str) -> str:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    return next(line.partition(">=")[2] for line in lines if line.startswith(f"{name}>="))
