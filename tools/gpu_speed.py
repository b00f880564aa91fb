"""Sections `sync` and `speed` of gpu_check.py: does a training step wait, and for what?"""

import json
import time

import torch
from gpu_memory import steps, training
from gpu_ranks import log_of
from gpu_tools import MASKGIT, PRETRAIN, VQGAN, installed, stage

KERNELS = 2500  # of a step of VICReg with ResNet-50


# ---------------------------------------------------------------- waiting
def trainings(device, workshop):
    """{name: command} of the trainings whose steps are watched."""
    root = workshop.images(each=40)
    data = ["--data", root / "train"]
    backbone = ["--backbone", workshop.encoder()]
    quiet = ["--epochs", 1, "--log-every", 1000]
    vqgan = ["00_train_generator.py", "vqgan", *data, "--epochs", 2, *VQGAN]
    maskgit = ["00_train_generator.py", "maskgit", *data, "--epochs", 2, *MASKGIT]
    maskgit += ["--tokenizer", workshop.tokenizer()]
    linear = ["04_linear_eval.py", "--data", root, *backbone, "--epochs", 2, "--batch-size", 8]
    fine_tuning = ["05_semisup_eval.py", "--data", root, *backbone, "--percent", 100]
    fine_tuning += ["--epochs", 2, "--batch-size", 8]
    diffusion = ["extras/train_diffusion.py", *data, "--epochs", 1, "--batch-size", 8]
    diffusion += ["--size", 32, "--width", 32, "--multipliers", 1, 1, "--blocks", 1]
    found = {
        "03": ["03_pretrain.py", *data, *PRETRAIN, *quiet],
        "04": linear,
        "05": fine_tuning,
        "00 vqgan": vqgan,
        "00 maskgit": maskgit,
        "train_diffusion": diffusion,
    }
    if device.type == "cuda":
        found["03, ResNet-50"] = ["03_pretrain.py", *data, "--batch-size", 8, *quiet]
    return found


def sync(report, device, workshop):
    """Steps 4 to 12 of every training: no log line and no checkpoint falls into them."""
    for name, words in trainings(device, workshop).items():
        with report.guard(name):
            if name == "train_diffusion":
                installed("diffusers")
            watched(report, device, workshop, name, words)


def watched(report, device, workshop, name, words):
    file = workshop.folder / f"watch-{name}.json"
    out = ["--out", workshop.folder / f"watched-{name}"]
    stage("tools/gpu_patch.py", "watch", file, *words, *out, *workshop.common)
    found = json.loads(file.read_text())
    if device.type == "cpu":
        report.info(f"{name}: values read back in a step", found["read back"])
        return
    report.at_most(f"{name}: waits in a step", found["waits"], 0)
    if found["where"]:
        report.info(f"{name}: it waits in", " ".join(found["where"]))
    report.info(f"{name}: kernels in a step", found["kernels"])
    if name == "03, ResNet-50":
        report.at_most(f"{name}: kernels in a step", found["kernels"], KERNELS)


# ---------------------------------------------------------------- speed
def speed(report, device, workshop):
    if device.type == "cuda":
        with report.guard("peaks"):
            peaks(report, device)
    with report.guard("03: the loader and the step"):
        loader_and_step(report, device, workshop)


def peaks(report, device):
    """What times on another card are scaled by: matrix products and copies."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    seconds = timed(a.matmul, a)
    report.info("bf16 matrix product, TFLOP/s", 2 * 8192**3 / seconds / 1e12)
    a = torch.empty(2**30, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    report.info("copy, GB/s read and written", 2 * 2**30 / timed(b.copy_, a) / 1e9)


def timed(function, *args):
    """Seconds of one call, the mean of ten."""
    for _ in range(3):
        function(*args)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        function(*args)
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / 10


def loader_and_step(report, device, workshop):
    """Images a second of the training step alone, of the loader alone, and of both together."""
    photographs = workshop.photographs(6400 if device.type == "cuda" else 48)
    batch, network = 200, "--backbone resnet50 --size 224 --workers 12"
    fast = "--backbone resnet10 --size 224 --workers 12 --projector 64-64"
    if device.type == "cpu":
        batch, network = 8, "--backbone resnet10 --small-images --size 32 --projector 16-16"
        fast = network
    model, build_optimizer, shapes = training(device, "vicreg", 1, batch, 0)
    alone = steps(model, build_optimizer, shapes, device, device.type == "cuda", False)
    del model
    report.info("03: the step alone, images/s", alone)

    def rate(name, words):
        out = workshop.folder / f"speed-{name}"
        words = ["03_pretrain.py", "--data", photographs, "--out", out, *words.split()]
        words += ["--batch-size", batch, "--epochs", 3, "--device", device.type]
        stage(*words)
        # Of the last epoch: the workers' prefetched batches, 24 of 96, are used up by then.
        value = log_of(out)[-1]["images_per_second"]
        report.info(f"03: {name}, images/s", value)
        return value

    loader = rate("the loader with a small network", fast)
    both = rate("both together", network)
    if device.type == "cpu":
        return
    report.at_least("03: both over the slower of the two", both / min(alone, loader), 0.9)
