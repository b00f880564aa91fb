"""Measuring: the clock, the rounds of a comparison, a figure's line, the pictures."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from base import run

CPU = torch.device("cpu")


# ---------------------------------------------------------------- one line for each figure
def line(name, ours, baseline, ratio, aim):
    print(f"{name:<31}{ours:<18}{baseline:<42}{ratio:>8}  {aim}", flush=True)


def head():
    line("figure", "ours", "baseline", "ratio", "aim")


def report(name, ours, unit, what, baseline, aim="-"):
    """Print a figure: ours, the baseline and their ratio, which is above 1 where ours is better.

    unit: of both values. More is better where it ends in "/s", else less is better.
    what: the baseline in a few words. aim: the ratio that this project wants.
    """
    ratio = ours / baseline
    if not unit.endswith("/s"):
        ratio = baseline / ours
    first = f"{digits(ours)} {unit}"
    second = f"{what}: {digits(baseline)} {unit}"
    line(name, first, second, f"{ratio:.3g}", aim)


def digits(value):
    """Four digits, or all before the point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


# ---------------------------------------------------------------- a comparison
def clock(device):
    """Seconds: the process's CPU time, or the wall time at which the GPU has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def compare(device, rounds, *functions, warm_up=True, equal=None, measure=torch.max):
    """Median seconds of each function; in each round all are called, one after the other.

    equal: how far the values of the first two may be apart, see `check`. warm_up: call all once
    before.
    """
    if warm_up:
        for function in functions:
            function()
    seconds = np.zeros((rounds, len(functions)))
    for of_round in seconds:
        values = []
        for k, function in enumerate(functions):
            begin = clock(device)
            values.append(function())
            of_round[k] = clock(device) - begin
    if equal is not None:
        check(values[0], values[1], equal, measure)
    return np.median(seconds, axis=0)


def check(ours, baseline, equal, measure=torch.max):
    """End the run unless both are the same: |ours - baseline| is at most `equal` x |baseline|.

    measure: what stands for all elements, torch.max for the largest or torch.median.
    """
    ours = torch.as_tensor(ours).detach().cpu().double()
    baseline = torch.as_tensor(baseline).detach().cpu().double()
    apart = measure((ours - baseline).abs()) / measure(baseline.abs())
    if not apart <= equal:
        run.fail(
            f"Ours and the baseline differ by {apart:.2g} of the value, and {equal:g} is allowed: "
            "find out which is wrong, for the comparison is void."
        )


# ---------------------------------------------------------------- what the device can do
def precisions(device):
    """The number formats to measure: fp32, and bf16 where the hardware computes in it."""
    with run.autocast(device):
        if torch.is_autocast_enabled(device.type):
            return ["fp32", "bf16"]
    return ["fp32"]


def matmul(device, precision, quick):
    """(a function that multiplies two square matrices, its GFLOP): the device at its best."""
    n = 2048 if device.type == "cpu" else 8192
    if quick:
        n = 128
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a = torch.randn(n, n, device=device, dtype=dtype)
    b = torch.randn(n, n, device=device, dtype=dtype)

    def product():
        return a @ b

    return product, 2 * n**3 / 1e9


# ---------------------------------------------------------------- pictures
def in_batches(number, batch, epoch):
    """Lists of (epoch, index), as images/pairs.py is asked for its pairs."""
    order = []
    for start in range(0, number, batch):
        indices = range(start, start + batch)
        order.append([(epoch, index) for index in indices])
    return order


def photographs(folder, number, width=500, height=375, suffix=".jpg"):
    """Write random cuts of scikit-learn's two sample photographs, some mirrored; their names."""
    photos = load_sample_images().images
    rng = run.seed_rng(0, "photographs")
    names = [f"{i:03d}{suffix}" for i in range(number)]
    Path(folder).mkdir(exist_ok=True)
    for name in names:
        pixels = photos[rng.integers(len(photos))]
        direction = rng.choice([-1, 1])
        image = Image.fromarray(pixels[:, ::direction])
        widest = min(image.width, image.height * width // height)
        cut_width = int(rng.integers(min(width, widest), widest + 1))
        cut_height = cut_width * height // width
        left = int(rng.integers(image.width - cut_width + 1))
        top = int(rng.integers(image.height - cut_height + 1))
        box = left, top, left + cut_width, top + cut_height
        image = image.resize((width, height), Image.Resampling.BICUBIC, box)
        image.save(Path(folder, name), quality=90)
    return names
