"""Bad inputs of every stage, from the tables of tests/bad_inputs.py: no traceback, nothing lost.

One sentence says what is wrong. What is missing is said before anything is written.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import spoil
import tiny_pipelines
from bad_inputs import (
    AGAIN,
    AUGMENT,
    CACHED,
    CASES,
    LAYER,
    LINEAR,
    PLACES,
    TRAIN,
    TRANSFER,
    TUNE,
    VQ,
)
from conftest import call, hashes, write_images


def stage(words):
    """Run [script, arguments ...] in this process; return the exit code."""
    try:
        call(*words)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def unspoilt(tmp_path_factory):
    """The folder that every case has a copy of."""
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
    """A tiny model that takes captions; it takes seconds to make."""
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


MADE_AGAIN = {"gen/samples.png"}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_bad_input(root, case, capsys, monkeypatch, request):
    if "sdxl" in case.command:
        (root / "sdxl").symlink_to(request.getfixturevalue("sdxl"))
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
    assert set(changed) <= MADE_AGAIN
    check = case.right if callable(case.right) else spoil.there(case.right)
    check(Path(root))


# ---------------------------------------------------------------- nothing is written too early
PUBLISHED = Path(__file__).parent / "goldens/maskgit"
PAINT = "02_augment.py inpaint --data data/train --out out --workers 0 --steps 2"
MASKGIT = "00_train_generator.py maskgit --data data/train --out out --epochs 1 --layers 1 "
MASKGIT += "--dim 32 --heads 2 --batch-size 8 --workers 0 --tokenizer"
DENOISE = "02_augment.py diffusion --data data/train --out out --workers 0 --strength 0 --model"
COST = "07_metrics.py cost gen --out out --images 2 --workers 0"
NEAR = "02_augment.py neighbour --data data/train --out out --size 32 --workers 0 --backbone"
LACKING = {  # name: (the command, words of the sentence, what the user then gives)
    "00 vqgan": (f"{VQ} --perceptual-weight 1", "vgg16...--perceptual-weight 0", f"{VQ}"),
    "00 maskgit": (f"{MASKGIT} typo", "typo", f"{MASKGIT} vqgan"),
    "00, batch": (f"{VQ} --batch-size 25", "24 images", VQ),
    "02 inpaint": (PAINT, "tokenizer_imagenet256", f"{PAINT} --mask none --weights vqgan"),
    "02 label": (
        f"{PAINT} --weights {PUBLISHED}",
        "--label N",
        f"{PAINT} --weights {PUBLISHED} --label 3",
    ),
    "02 diffusion": (f"{DENOISE} sdxl", "--no-caption", f"{DENOISE} sdxl --no-caption"),
    "02 diffusion, model": (f"{DENOISE} no/where", "weights.sh", f"{DENOISE} sdxl --no-caption"),
    "02 neighbour": (f"{NEAR} typo", "typo", f"{NEAR} runs/base"),
    "03 mirror": (f"{TRAIN} --generated typo", "typo", f"{TRAIN} --generated gen"),
    "03 init": (f"{TRAIN} --init typo", "typo", f"{TRAIN} --init runs/base"),
    "03 batch": (f"{TRAIN} --batch-size 32", "24 images", TRAIN),
    "04": (f"{LINEAR} --backbone typo", "typo", LINEAR),
    "04 batch": (f"{LAYER} --batch-size 32", "24 images", LAYER),
    "05": (f"{TUNE} --subset-file typo", "typo", TUNE),
    "06": (PLACES, "places/train is not a folder", TRANSFER),
    "07 cost": (COST, "pt_inception", f"{COST} --features runs/base"),
}


@pytest.mark.parametrize("name", LACKING)
def test_nothing_is_written_before_all_is_found(root, name, capsys, monkeypatch, request):
    """What is missing is said first; the same folder then takes the command with the right flag."""
    wrong, words, right = LACKING[name]
    monkeypatch.setenv("GCL_WEIGHTS", str(root / "nowhere"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "sdxl" in right:
        (root / "sdxl").symlink_to(request.getfixturevalue("sdxl"))
    if "vqgan" in right.split():
        assert stage(VQ.replace("--out out", "--out vqgan").split()) == 0
    before = hashes(root)
    capsys.readouterr()
    assert stage(wrong.split()) > 0
    said = capsys.readouterr().err
    assert all(word in said for word in words.split("...")), said
    assert hashes(root) == before and not Path("out").exists()
    assert stage(right.split()) == 0, capsys.readouterr().err
