"""Every stage is stopped and continued, on one process and on two; its readers are sent elsewhere.

What a stage leaves is what an uninterrupted run left: tensors, images, captions and numbers to the
last bit, and the lines of the log without their times.
"""

import json
import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

import kill
import pytest
import torch
from conftest import MASKGIT, PRETRAIN, VQGAN, equal, hashes, run, started
from icgan_release import write_release
from tiny_pipelines import blip, sdxl

ONE, TWO = ((1, signal.SIGTERM),), ((2, signal.SIGKILL),)
BOTH = ONE + TWO


class Stage(NamedTuple):
    """A command without --out, and what becomes of it."""

    words: str  # {name} stands for a path of `places`
    left: str = "*.pth"  # patterns of what it leaves
    begun: str = "checkpoint.pth"  # pattern of what is there once it has begun to work
    stopped: tuple = BOTH  # (processes, signal) of each try


VIEWS = "view0/*/*"
SIGNALS = (*BOTH, (1, signal.SIGKILL), (2, signal.SIGTERM))
VQGANS = "00_train_generator.py vqgan --data {train} --epochs 6 --gan-weight 0.5"
MASKGITS = "00_train_generator.py maskgit --data {train} --tokenizer {vqgan} --epochs 15"
BLIP = "01_caption.py --data {train} --model {blip} --max-tokens 6 --batch-size 2 --workers 0"
PAINT = "02_augment.py inpaint --data {train} --weights {maskgit} --mask random:0.5 --steps 3 "
PAINT += "--batch-size 2 --workers 0"
NOISE = "02_augment.py noise --data {train} --weights {icgan} --batch-size 1 --workers 0"
DIFFUSE = "02_augment.py diffusion --data {train} --model {sdxl} --no-caption --strength 0.1 0.5 "
DIFFUSE += "--batch-size 3 --workers 0"
TRAIN = "03_pretrain.py --data {train} --epochs 6 --projector "
DINO = f"{TRAIN} 16-16-8-24 --method dino --workers 1 --local-crops 2 --local-size 16"
SWAV = f"{TRAIN} 16-8-12 --method swav --in-memory --queue 16 --queue-start 1"
VIT = f"{TRAIN} 16-16-8-24 --method dino --epochs 4 --backbone vit_tiny_patch16 --local-crops 0"
MEASURE = "--data {data} --backbone {encoder} --epochs 12 --batch-size 8 --workers 0"
DENOISE = "extras/train_diffusion.py --data {train} --epochs 3 --batch-size 8 --size 16 --width 32 "
DENOISE += "--multipliers 1 1 --blocks 1 --workers 0"
STAGES = {
    "00 vqgan": Stage(VQGANS, stopped=ONE),
    "00 vqgan, random": Stage(f"{VQGANS} --start-from random", stopped=TWO),
    "00 maskgit": Stage(MASKGITS),
    "01": Stage(BLIP, "captions.jsonl", ".captions*/*"),
    "02 inpaint": Stage(PAINT, VIEWS, VIEWS, ONE),  # test_inpainting.py has two
    "02 noise": Stage(NOISE, VIEWS, VIEWS, ONE),
    "02 diffusion": Stage(DIFFUSE, f"strength*/{VIEWS}", f"strength*/{VIEWS}", TWO),
    "03 vicreg": Stage(f"{TRAIN} 16-16 --generated {{inpaint}}", stopped=SIGNALS),
    "03 dino, workers": Stage(DINO, stopped=TWO),
    "03 swav, in memory": Stage(SWAV, stopped=TWO),
    "03 vit": Stage(VIT, stopped=ONE),
    "04": Stage(f"04_linear_eval.py {MEASURE} --seeds 0 1", "result.json *.pth"),
    "05": Stage(f"05_semisup_eval.py {MEASURE} --percent 100", "result.json *.pth"),
    "train_diffusion": Stage(DENOISE, "unet/*.safetensors"),
}
NO_RESNET = [word for word in PRETRAIN if word not in ("--backbone", "resnet10", "--small-images")]
FLAGS = {"03 vit": NO_RESNET, "00 vqgan": VQGAN, "00 vqgan, random": VQGAN, "00 maskgit": MASKGIT}
CASES = [(name, *stopped) for name in STAGES for stopped in STAGES[name].stopped]


@pytest.fixture(scope="session")
def places(tiny, tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("places"), tiny)


def make_places(root, tiny):
    blip(root / "blip")
    sdxl(root / "sdxl")
    (root / "icgan").mkdir()
    release = write_release(root / "icgan")
    encoder = ["--data", tiny["train"], "--epochs", 1, "--projector", "16-16", *PRETRAIN]
    run("03_pretrain.py", *encoder, "--out", root / "encoder")
    made = {name: root / name for name in ("blip", "sdxl", "encoder")} | {"icgan": release}
    return {name: str(path) for name, path in (tiny | made).items()}


def command(name, places, out):
    """The words of a stage's command; 01 writes a file into the folder."""
    words = STAGES[name].words.split()
    own = [] if name.startswith(("01", "02", "04", "05", "train")) else FLAGS.get(name, PRETRAIN)
    flags = [word.format(**places) for word in words]
    if name.startswith(("00", "03", "train")):
        flags += ["--checkpoint-minutes", "0"]
    script = 2 if flags[0].startswith(("00", "02")) else 1
    target = out / "captions.jsonl" if name == "01" else out
    return [*flags[:script], *own, *flags[script:], "--out", target]


def left(name, out):
    """{file: what a stage has left in it}: tensors, numbers, or a digest."""
    contents = {}
    for pattern in STAGES[name].left.split():
        for path in sorted(Path(out).glob(pattern)):
            key = str(path.relative_to(out))
            if path.suffix == ".pth":
                contents[key] = torch.load(path, weights_only=True)
            elif path.suffix == ".json":
                contents[key] = json.loads(path.read_text())["results"]
            else:
                contents[key] = hashes(path.parent, path.name)
    if (Path(out) / "log.jsonl").exists():
        lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("images_per_second", None)
        contents["log"] = lines[1:]  # the first line has the time
    return contents


@pytest.fixture(scope="session")
def uninterrupted(places, tmp_path_factory):
    """Function (stage, processes) -> what it leaves when nothing disturbs it, made once."""
    made = {}

    def of(name, processes):
        if (name, processes) not in made:
            out = tmp_path_factory.mktemp("whole") / "out"
            run("tests/otherwise.py pickled", *command(name, places, out), processes=processes)
            made[name, processes] = left(name, out)
            assert len(made[name, processes]) > 0
        return made[name, processes]

    return of


@pytest.mark.parametrize("name, processes, number", CASES, ids=lambda value: str(value))
def test_stopped_and_continued(name, processes, number, places, uninterrupted, tmp_path):
    """Stopped at a random moment, it goes on to the end of an uninterrupted run, and says so."""
    whole = uninterrupted(name, processes)
    out = tmp_path / "out"
    words = command(name, places, out)
    with started(*words, processes=processes) as ranks:
        while ranks.poll() is None and not any(out.glob(STAGES[name].begun)):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.1))
        assert ranks.poll() is None, "it ended before it could be stopped"
        if number == signal.SIGKILL:
            ranks.kill()
        else:
            done = ranks.end(600)  # a busy machine takes its time
            assert done.returncode == 128 + number, done.stderr[-2000:]
            assert "Stopped by SIGTERM" in done.stderr and "Traceback" not in done.stderr
    run(*words, processes=processes)
    assert equal(left(name, out), whole)
    before = hashes(out, "[!.]*", "*/*")
    assert "is finished" in run(*words, processes=processes).stdout
    assert hashes(out, "[!.]*", "*/*") == before


def test_the_tool_that_kills(places, tmp_path, monkeypatch):
    name = "00 maskgit"
    expected, seconds = kill.whole(name, places, tmp_path / "whole")
    stops, wrong = kill.trial(random.Random(0), name, places, expected, seconds, tmp_path / "out")
    assert not wrong, wrong
    expected["generator.pth"]["size"] = 0
    wrong = kill.trial(random.Random(1), name, places, expected, 0, tmp_path / "other")[1]
    assert wrong == "differs in generator.pth"


READING = (  # the other commands that read ahead
    "02_augment.py neighbour --data {train} --backbone {encoder} --size 32 --out {out}",
    "06_transfer.py folder --data {data} --backbone {encoder} --out {out}",
    "07_metrics.py check {train} --workers 0",
    "07_metrics.py fid {train} {data}/val --features {encoder} --workers 0",
    "07_metrics.py ssim {train} {inpaint}/view0 --out {out} --workers 0",
    "extras/train_augmenter.py steer --edit shift --data {train} --weights {icgan} --steps 2 "
    "--batch-size 2 --out {out} --workers 0",
)


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(words.split()[:2]))
def test_readers_can_be_sent(words, places, tmp_path):
    filled = [word.format(**places, out=tmp_path / "out") for word in words.split()]
    run("tests/otherwise.py pickled", *filled)
