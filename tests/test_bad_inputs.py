"""Bad inputs of every stage, from the tables of tests/bad_inputs.py: one sentence, nothing lost."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import spoil
import tiny_pipelines
from bad_inputs import AGAIN, AUGMENT, CACHED, CASES, LACKING, VQ
from conftest import call, hashes, write_images


def stage(words):
    try:
        call(*words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory):
    root = tmp_path_factory.mktemp("unspoilt")
    here = os.getcwd()
    os.chdir(root)
    write_images(root / "data/train")
    write_images(root / "data/val", each=3, seed=1)
    for command in (f"{AUGMENT} --out gen", AGAIN, CACHED):
        assert stage(command.split()) == 0
    os.chdir(here)
    return root


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    tiny_pipelines.sdxl(folder)
    return folder


@pytest.fixture
def root(unspoilt, tmp_path, monkeypatch):
    """A copy of the unspoilt folder, which is the current one."""
    copied = tmp_path / "x"
    shutil.copytree(unspoilt, copied)
    for noted in ("runs/base/args.json", "runs/base-cached/args.json", "gen/augment.json"):
        text = (copied / noted).read_text()
        (copied / noted).write_text(text.replace(str(unspoilt), str(copied)))
    monkeypatch.chdir(copied)
    yield copied
    for process in spoil.writers:
        process.communicate()
    spoil.writers.clear()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input(root, case, capsys, monkeypatch):
    case.spoil(root)
    before = hashes(root)
    sys.stderr.reconfigure(errors="backslashreplace")  # as it is outside of pytest
    capsys.readouterr()
    words = shlex.split(case.command)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("="))
    found = stage(words)
    said = capsys.readouterr()
    code, _, sentence = case.said.partition(" ")
    assert found == int(code), said.err
    assert "Traceback" not in said.err
    lines = said.err.replace("\r", "\n").splitlines() if found else [said.out + said.err]
    assert any(all(word in line for word in sentence.split("...")) for line in lines), said.err
    after = hashes(root)
    changed = [name for name in before if after.get(name) != before[name]]
    assert set(changed) <= {"gen/samples.png"}
    check = case.right if callable(case.right) else spoil.there(case.right)
    check(Path(root))


@pytest.mark.parametrize("name", LACKING)
def test_nothing_is_written_before_all_is_found(root, name, capsys, monkeypatch, request):
    """What is missing is said first; the same folder then takes the command with the right flag."""
    wrong, words, right = LACKING[name]
    monkeypatch.setenv("GCL_WEIGHTS", str(root / "nowhere"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "sdxl" in right:
        (root / "sdxl").symlink_to(request.getfixturevalue("sdxl"))
    if "blip" in right.split():
        tiny_pipelines.blip(root / "blip")
    if "vqgan" in right.split():
        assert stage(VQ.replace("--out out", "--out vqgan").split()) == 0
    before = hashes(root)
    capsys.readouterr()
    assert stage(wrong.split()) > 0
    said = capsys.readouterr().err
    assert all(word in said for word in words.split("...")), said
    assert hashes(root) == before and not Path("out").exists()
    assert stage(right.split()) == 0, capsys.readouterr().err
