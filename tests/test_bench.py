"""bench.py: every figure appears, and the baselines give the values of the official code."""

from functools import partial
from pathlib import Path

import bench
import bench_generators
import bench_tools
import bench_training
import numpy as np
import torch
from conftest import run, sentence

GOLDENS = Path(__file__).parent / "goldens"


def test_every_figure_appears():
    done = run("tools/bench.py", "--quick", "--rounds", 1)
    lines = done.stdout.splitlines()
    for name in bench.FILES:
        ratios = [float(line[91:99]) for line in lines if line.startswith(f"{name},")]
        assert ratios and all(ratio > 0 for ratio in ratios), name
        assert f"\n{name} " in bench.__doc__
    lines = run("tools/bench.py", "ssim", "--quick", "--rounds", 1).stdout.splitlines()
    assert lines[-1].startswith("ssim,") and lines[-2].startswith("figure")
    assert "'views'" in run("tools/bench.py", "sim", code=2).stderr


def test_different_values_end_the_run(capsys):
    device = torch.device("cpu")
    functions = [lambda: [1.0, 100.0], lambda: [1.2, 100.0]]
    bench_tools.compare(device, 1, *functions, equal=0.003)
    said = sentence(capsys, partial(bench_tools.compare, equal=0.001), device, 1, *functions)
    assert "differ by 0.002 of the value" in said
    assert sentence(capsys, partial(bench_tools.check, equal=0.1), float("nan"), 1.0)


def test_plain_baselines_are_the_official_ones():
    gold = {}
    for key, value in np.load(GOLDENS / "ssl/losses.npz").items():
        gold[key] = torch.from_numpy(value)
    x = gold["in/pair/x"].double()
    y = gold["in/pair/y"].double()
    loss = bench_training.plain_loss(x, y)
    torch.testing.assert_close(loss, gold["vicreg/f64/total/loss"].double(), rtol=1e-10, atol=0)
    state = torch.load(GOLDENS / "icgan/release/G_ema_best0.pth", weights_only=True)
    golden = np.load(GOLDENS / "icgan/images.npz")
    z = torch.from_numpy(golden["tiny_z"])[:, :20]
    feature = torch.from_numpy(golden["tiny_feature"])
    images = bench_generators.plain_generator(state, z, feature)
    expected = torch.from_numpy(golden["tiny_image"])
    assert (images - expected).abs().max() < 1e-4
