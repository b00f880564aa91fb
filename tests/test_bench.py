"""bench.py: every figure appears, and the baselines give the values of the official code."""

from pathlib import Path

import numpy as np
import torch
from conftest import run

import bench
from models.biggan import generator_config

GOLDENS = Path(__file__).parent / "goldens"


def test_every_figure_appears():
    lines = run("bench.py", *bench.NAMES, "--quick", "--rounds", 1).stdout.splitlines()
    for name in bench.NAMES:
        ratios = [float(line[91:99]) for line in lines if line.startswith(f"{name},")]
        assert ratios and all(ratio > 0 for ratio in ratios), name


def test_plain_loss_is_the_official_one():
    gold = {
        key: torch.from_numpy(value) for key, value in np.load(GOLDENS / "ssl/losses.npz").items()
    }
    loss = bench.plain_loss(gold["in/pair/x"].double(), gold["in/pair/y"].double())
    torch.testing.assert_close(loss, gold["vicreg/f64/total/loss"].double(), rtol=1e-10, atol=0)


def test_plain_generator_gives_the_official_images():
    state = torch.load(GOLDENS / "icgan/release/G_ema_best0.pth", weights_only=True)
    golden = np.load(GOLDENS / "icgan/images.npz")
    config = generator_config(state)
    z, feature = (torch.from_numpy(golden[f"tiny_{name}"]) for name in ("z", "feature"))
    images = bench.plain_generator(
        state, config, z[:, : config["chunk"] * len(config["channels"])], feature
    )
    assert (images - torch.from_numpy(golden["tiny_image"])).abs().max() < 1e-4
