"""extras/train_diffusion.py on a few small images."""

import json

import pytest
from conftest import call, refused, run
from test_caption import photographs

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


def test_train_and_use(data, tmp_path):
    """02_augment.py takes the run folder. test_every_stage.py interrupts such a training."""
    call("extras/train_diffusion.py", "--data", data, *TRAIN, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "samples.png").exists()
    mirror = f"02_augment.py diffusion --data {data} --model {tmp_path}/run --workers 0"
    call(mirror, "--out", tmp_path / "mirror")
    made = sorted((tmp_path / "mirror" / "strength0.2" / "view0").rglob("*.png"))
    assert len(made) == 6 and read_image(made[0]).shape == (16, 16, 3)


def test_train_with_two_processes(data, tmp_path):
    """Two processes train as one does."""
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


def test_train_refusals(data, tmp_path, capsys):
    command = ("extras/train_diffusion.py", "--data", data, *TRAIN, "--out", tmp_path / "out")
    for flag in (("--size", 15), ("--width", 48)):
        said = refused(capsys, *command, *flag, code=2)
        assert "--size must be a multiple of 2, and --width of 32" in said
    assert "lies inside --data" in refused(capsys, *command, "--out", data / "run", code=2)
