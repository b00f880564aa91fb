"""extras/train_diffusion.py on a few small images."""

import json
import signal

import pytest
import torch
from conftest import call, run
from test_caption import photographs
from test_diffusion import refusal

from images.read import read_image

pytest.importorskip("diffusers")  # a machine may lack it; only this needs it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("images"), 6)


TRAIN = (
    "--size 16 --epochs 4 --batch-size 2 --width 32 --multipliers 1 1 --blocks 1 --workers 0 "
    "--ema 0.9"
).split()


def trained_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_train_resume_and_use(data, tmp_path, monkeypatch, capsys):
    """Interrupted and continued equals uninterrupted; 02_augment.py takes the run folder."""
    command = ("extras/train_diffusion.py", "--data", data, *TRAIN)
    call(*command, "--out", tmp_path / "whole")
    stage = call.modules["train_diffusion"]
    monkeypatch.setattr(stage, "SAMPLE_STEPS", 10)
    save, saved = stage.run_folder.save_checkpoint, []

    def save_three(*args, **state):
        if len(saved) == 3:
            raise stage.run.Interrupt(signal.SIGINT)
        saved.append(state["step"])
        save(*args, **state)

    with monkeypatch.context() as patch:
        patch.setattr(stage.run_folder, "save_checkpoint", save_three)
        common = (*command, "--out", tmp_path / "parts")
        error = refusal(capsys, 130, call, *common, "--checkpoint-minutes", 0)
    assert "Stopped by SIGINT" in error and saved == [1, 2, 3]
    assert (tmp_path / "parts" / "checkpoint.pth").exists()
    assert not (tmp_path / "parts" / "model_index.json").exists()
    call(*common)
    whole, parts = trained_weights(tmp_path / "whole"), trained_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (tmp_path / "parts" / "checkpoint.pth").exists()
    assert (tmp_path / "parts" / "samples.png").exists()
    logs = [
        (tmp_path / name / "log.jsonl").read_text().splitlines()[1:] for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 1
    capsys.readouterr()
    call(*common)
    assert "is finished" in capsys.readouterr().out

    mirror = ("02_augment.py", "diffusion", "--data", data, "--model", tmp_path / "whole")
    call(*mirror, "--workers", 0, "--out", tmp_path / "mirror")
    made = sorted((tmp_path / "mirror" / "strength0.2" / "view0").rglob("*.png"))
    assert len(made) == 6 and read_image(made[0]).shape == (16, 16, 3)


def test_train_with_two_processes(data, tmp_path):
    """Two processes train as one does; a second start with two says that it is finished."""
    command = ("extras/train_diffusion.py", "--data", data, *TRAIN)
    call(*command, "--out", tmp_path / "one")
    run(*command, "--out", tmp_path / "two", processes=2)
    losses = []
    for name in ("one", "two"):
        last = (tmp_path / name / "log.jsonl").read_text().splitlines()[-1]
        losses.append(json.loads(last)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)
    # Adam makes steps of 1e-4 of any gradient, also of the rounding errors of one that is zero
    # (of a bias before a normalisation): so look at the median, and not at such parameters.
    one, two = trained_weights(tmp_path / "one"), trained_weights(tmp_path / "two")
    for name in ("conv_in.weight", "mid_block.resnets.0.conv2.weight", "conv_out.weight"):
        assert (one[name] - two[name]).abs().median() < 2e-5
    again = run(*command, "--out", tmp_path / "two", processes=2)
    assert "is finished" in again.stdout


def test_train_refusals(data, tmp_path, capsys):
    command = ("extras/train_diffusion.py", "--data", data, *TRAIN, "--out", tmp_path / "out")
    for flag in (("--size", 15), ("--width", 48)):
        error = refusal(capsys, 2, call, *command, *flag)
        assert "--size must be a multiple of 2, and --width of 32" in error
    error = refusal(capsys, 2, call, *command, "--out", data / "run")
    assert "lies inside --data" in error
