"""Sections `ranks` and `resume` of gpu_check.py: several processes, and runs that are killed."""

import json
import os
import random
import shutil
import signal
import time

import torch
from gpu_tools import (
    MASKGIT,
    PRETRAIN,
    PROJECTORS,
    SECOND_TIME,
    VQGAN,
    children,
    installed,
    kill_group,
    stage,
    started,
    wait_for,
)

from models.registry import METHODS

TWO = {"processes": 2}


def ranks(report, device, workshop):
    for name, words, packages in stages(workshop):
        with report.guard(name):
            installed(*packages)
            twice(report, name, words)
    with report.guard("two processes against one"):
        against_one(report, workshop)
    if not os.path.isdir("/proc/self"):
        report.add("skip", "a process that is killed, a process that is slow", "no /proc")
        return
    with report.guard("a process that is killed"):
        killed(report, workshop)
    with report.guard("a process that is slow"):
        slow(report, device, workshop)


# ---------------------------------------------------------------- every stage, twice
def stages(workshop):
    """[(name, command, packages that it needs)] of every stage that runs on several processes."""
    root = workshop.images()
    train = root / "train"
    out = workshop.folder / "ranks"

    def command(name, *words, evaluation=None):
        return [*words, "--out", out / name, *workshop.common]

    found = []
    for method in METHODS:
        words = ["03_pretrain.py", "--method", method, "--data", train, "--epochs", 2, *PRETRAIN]
        words += ["--projector", PROJECTORS.get(method, "16-16"), "--local-size", 16]
        words += ["--generated", workshop.mirror()]
        found.append((f"03 {method}", command(method, *words), []))
    words = ["00_train_generator.py", "vqgan", "--data", train, "--epochs", 2, *VQGAN]
    found.append(("00 vqgan", command("vqgan", *words), []))
    words = ["00_train_generator.py", "maskgit", "--data", train, "--epochs", 2, *MASKGIT]
    words += ["--tokenizer", workshop.tokenizer()]
    found.append(("00 maskgit", command("maskgit", *words), []))
    words = ["02_augment.py", "inpaint", "--data", train, "--weights", workshop.generator()]
    words += ["--steps", 2, "--batch-size", 4]
    found.append(("02 inpaint", command("inpaint", *words), []))
    words = ["extras/train_diffusion.py", "--data", train, "--epochs", 1, "--batch-size", 8]
    words += ["--size", 32, "--width", 32, "--multipliers", 1, 1, "--blocks", 1]
    found.append(("train_diffusion", command("ddim", *words), ["diffusers"]))
    encoder = ["--backbone", workshop.encoder()]
    words = ["04_linear_eval.py", "--data", root, *encoder, "--epochs", 1, "--batch-size", 8]
    found.append(("04", command("linear", *words, "--knn"), []))
    words = ["05_semisup_eval.py", "--data", root, *encoder, "--percent", 100, "--epochs", 1]
    found.append(("05", command("semisup", *words, "--batch-size", 8), []))
    words = ["06_transfer.py", "folder", "--data", root, *encoder]
    found.append(("06 folder", command("transfer", *words), []))
    words = ["07_metrics.py", "fid", train, root / "val", "--features", workshop.encoder()]
    found.append(("07 fid", [*words, *workshop.common], []))
    return found


def twice(report, name, words):
    """The second time the stage has nothing left to do and says so."""
    begin = time.time()
    stage(*words, **TWO)
    report.expect(f"{name}: two processes", True, f"{time.time() - begin:.0f} s")
    said = stage(*words, **TWO)
    if not name.startswith("07"):
        report.expect(f"{name}: once more", SECOND_TIME in said)


def log_of(folder):
    """The lines of the log that are training steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def against_one(report, workshop):
    """Loss and gradient of the first step, with BatchNorm over both processes."""
    train = workshop.images() / "train"
    first = []
    for processes in (1, 2):
        out = workshop.folder / f"against-{processes}"
        words = ["03_pretrain.py", "--data", train, "--epochs", 1, *PRETRAIN, "--out", out]
        stage(*words, *workshop.common, "--precision", "fp32", processes=processes)
        first.append(log_of(out)[0])
    for name, limit in (("loss", 1e-4), ("gradient", 1e-3)):
        apart = abs(first[1][name] / first[0][name] - 1)
        report.at_most(f"two processes against one: {name}", apart, limit)


# ---------------------------------------------------------------- disturbed
def killed(report, workshop):
    """kill -9 of the second process, then the same command."""
    train = workshop.images() / "train"
    out = workshop.folder / "killed"
    words = ["03_pretrain.py", "--data", train, "--epochs", 30, *PRETRAIN, "--out", out]
    words += [*workshop.common, "--checkpoint-minutes", 0]
    process = started(*words, **TWO)
    wait_for((out / "checkpoint.pth").exists, process)
    time.sleep(random.uniform(0, 0.5))
    begin = time.time()
    try:
        os.kill(children(process)[1], signal.SIGKILL)
        process.wait(timeout=90)
        report.at_most("a process that is killed: the others end, s", time.time() - begin, 60)
    finally:
        if process.poll() is None:
            kill_group(process)
    report.expect("a process that is killed: torchrun's exit code", process.returncode != 0)
    stage(*words, **TWO)
    steps = [line["step"] for line in log_of(out)]
    report.expect("a process that is killed: continued", steps == list(range(1, 91)))


def slow(report, device, workshop):
    """One of two processes stands still for longer than a collective may take."""
    limit = 20 if device.type == "cuda" else 4
    train = workshop.images(each=40) / "train"
    out = workshop.folder / "slow"
    words = ["02_augment.py", "inpaint", "--data", train, "--weights", workshop.generator()]
    words += ["--steps", 2, "--batch-size", 1, "--out", out, *workshop.common]
    process = started(*words, **TWO, GCL_TIMEOUT=str(limit))
    try:
        wait_for(lambda: any(out.glob("view0/*/*.png")), process)
        second = children(process)[1]
        os.kill(second, signal.SIGSTOP)
        time.sleep(1.5 * limit)
        os.kill(second, signal.SIGCONT)
        process.wait(timeout=150)
    finally:
        if process.poll() is None:
            kill_group(process)
    made = len(list(out.glob("view0/*/*.png")))
    code = process.returncode
    report.expect("a process that is slow: exit code", code == 0, code)
    report.expect("a process that is slow: images", made == 120, made, "120")


# ---------------------------------------------------------------- resume
def trainings(workshop):
    """{name: (command, name of its result)} of the trainings that are killed."""
    root = workshop.images()
    epochs = ["--data", root / "train", "--epochs", 20]
    vqgan = ["00_train_generator.py", "vqgan", *epochs, *VQGAN]
    maskgit = ["00_train_generator.py", "maskgit", *epochs, *MASKGIT]
    maskgit += ["--tokenizer", workshop.tokenizer()]
    fine_tuning = ["05_semisup_eval.py", "--data", root, "--backbone", workshop.encoder()]
    fine_tuning += ["--percent", 100, "--epochs", 20, "--batch-size", 8]
    return {
        "03": (["03_pretrain.py", *epochs, *PRETRAIN], "backbone.pth"),
        "00 vqgan": (vqgan, "generator.pth"),
        "00 maskgit": (maskgit, "generator.pth"),
        "05": (fine_tuning, "result.json"),
    }


def resume(report, device, workshop):
    """Trainings that are killed and continued, against those that are not."""
    times = 2 if device.type == "cuda" else 1
    for name, (words, result) in trainings(workshop).items():
        with report.guard(name):
            patched = ["tools/gpu_patch.py", "deterministic", *words, *workshop.common]
            checkpoints = [] if words[0].startswith("05") else ["--checkpoint-minutes", 0]
            whole = workshop.folder / f"whole-{name}"
            broken = workshop.folder / f"broken-{name}"
            stage(*patched, *checkpoints, "--out", whole)
            kills = kill([*patched, *checkpoints, "--out", broken], broken, times)
            stage(*patched, *checkpoints, "--out", broken)
            report.info(f"{name}: times that it was killed", kills)
            report.expect(f"{name}: equal to the last bit", same(whole / result, broken / result))
            shutil.rmtree(broken)


def kill(words, folder, times):
    """Kill the stage soon after a checkpoint, some times; returns how often it still ran."""
    kills = 0
    for _ in range(times):
        process = started(*words)
        checkpoint = folder / "checkpoint.pth"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(random.uniform(0, 0.3))
                break
            time.sleep(0.01)
        kills += process.poll() is None
        kill_group(process)
    return kills


def same(a, b):
    """Whether two results are equal: files of tensors, or the results of an evaluation."""
    if a.suffix == ".json":
        return json.loads(a.read_text())["results"] == json.loads(b.read_text())["results"]
    return equal(torch.load(a, weights_only=True), torch.load(b, weights_only=True))


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b
