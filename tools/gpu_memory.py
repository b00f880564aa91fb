"""Section `memory` of gpu_check.py: what training steps take against what is counted before."""

import gc
import importlib
import time
from functools import partial

import memory
import torch
from gpu_tools import PROJECTORS, stage

from evaluate.features import home_of, knn
from models.resnet import checkpoint_stages

GIB = 2**30
ROWS = [  # method, generated views, images a GPU, local crops, --grad-checkpoint
    ("vicreg", 1, 200, 0, False),
    ("vicreg", 2, 128, 0, False),
    ("vicreg", 3, 96, 0, False),
    ("vicreg", 1, 200, 0, True),
    ("barlow", 1, 200, 0, False),
    ("simclr", 1, 200, 0, False),
    ("byol", 1, 200, 0, False),
    ("swav", 1, 200, 0, False),
    ("swav", 1, 200, 6, True),
    ("dino", 1, 200, 6, False),
    ("dino", 1, 200, 6, True),
    ("dino", 1, 128, 6, False),
]
STEPS = 5
WARM_UP = 2


def memory_rows(device):
    if device.type == "cuda":
        return ROWS
    return [(method, views, 8, crops, less) for method, views, _, crops, less in ROWS]


def memory_of_steps(report, device, workshop):
    total = memory.gpu_gib(device) if device.type == "cuda" else 1000.0
    for row in memory_rows(device):
        method, views, images, crops, less = row
        name = f"{method}, {views} views, {images} images, {crops} crops"
        if less:
            name += ", checkpointed"
        with report.guard(name):
            one_row(report, device, name, total, *row)
    if device.type == "cuda":
        with report.guard("kNN inside a training"):
            knn_inside_a_training(report, device)
        with report.guard("too large a training"):
            refused(report, workshop)
        with report.guard("out of memory"):
            out_of_memory(report, workshop)


# ---------------------------------------------------------------- a method
def training(device, method, views, images, crops):
    """(model on the CPU, build_optimizer, shapes of the crops) of a command of stage 03."""
    pretrain = importlib.import_module("03_pretrain")
    words = f"--data D --out O --method {method} --local-crops {crops} --batch-size {images}"
    if device.type == "cpu":
        projector = PROJECTORS.get(method, "16-16")
        words += f" --projector {projector} --backbone resnet10 --small-images --size 32"
        words += " --local-size 16"
    args = pretrain.arguments(words.split())
    recipe = pretrain.complete(args)
    args.views = views
    model = pretrain.build_model(args, recipe, normalisation=None)
    build_optimizer = partial(pretrain.build_optimizer, recipe=recipe)
    return model, build_optimizer, memory.crop_shapes(args, images)


def taken(device, model, work):
    """(GiB that work() takes together with the model, GiB reserved for it, what it returns)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        allocated = torch.cuda.max_memory_allocated() - before
        return allocated / GIB, torch.cuda.max_memory_reserved() / GIB, result
    with memory.Held() as held:
        for tensor in [*model.parameters(), *model.buffers()]:
            held.notice(tensor)
        result = work()
    return held.most / GIB, held.most / GIB, result


def steps(model, build_optimizer, shapes, device, bf16, less):
    """Real training steps on random crops; returns images a second without the first two steps."""
    model = model.to(device, memory_format=torch.channels_last)
    if less:
        checkpoint_stages(model.backbone)
    optimizer = build_optimizer(model)
    images = shapes[0][0][0]
    for number in range(STEPS):
        if number == WARM_UP:
            begin = clock(device)
            if device.type == "cuda":  # cuDNN has chosen its algorithms by now
                torch.cuda.reset_peak_memory_stats()
        views, local = ([crop(shape, device) for shape in of_kind] for of_kind in shapes)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(views, local, model.freeze)[0]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        model.before_update(model.freeze)
        optimizer.step()
        model.after_update(0.5)
        del loss, views, local
    return (STEPS - WARM_UP) * images / (clock(device) - begin)


def crop(shape, device):
    return torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)


def clock(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def one_row(report, device, name, total, method, views, images, crops, less):
    model, build_optimizer, shapes = training(device, method, views, images, crops)
    bf16 = device.type == "cuda"
    counted = memory.count_step(model, build_optimizer, shapes, bf16, less)["peak"]
    if counted + memory.CONTEXT > total:
        report.info(f"{name}: does not fit, counted", f"{counted:.1f} GiB")
        return

    def work():
        return steps(model, build_optimizer, shapes, device, bf16, less)

    allocated, reserved, rate = taken(device, model, work)
    report.info(f"{name}: GiB counted", counted)
    report.at_least(f"{name}: GiB taken / counted", allocated / counted, 0.8)
    report.at_most(f"{name}: GiB taken / counted", allocated / counted, 1.1)
    if device.type == "cuda":
        report.at_most(
            f"{name}: GiB reserved and {memory.CONTEXT}", reserved + memory.CONTEXT, total
        )
        report.info(f"{name}: images a second", rate)


# ---------------------------------------------------------------- what must not fail, or must
def knn_inside_a_training(report, device):
    """Nearest neighbours of ImageNet, one of four cards' share, while a training holds most."""
    total = memory.gpu_gib(device)
    hold = torch.empty(int((total - 4) * GIB), dtype=torch.uint8, device=device)
    rows = 320_000
    home = home_of(rows, 2048, device)
    train = torch.randn(rows, 2048, device=home)
    labels = torch.arange(rows) % 1000
    val = torch.randn(2000, 2048, device=device)
    votes = knn(train, labels, val, 1000)
    finite = bool(votes.isfinite().all()) and votes.shape == (2000, 1000)
    report.expect("kNN inside a training", finite, f"features on {home.type}")
    del hold, train, val, votes


def refused(report, workshop):
    """A training that cannot fit ends in one sentence before it begins."""
    train = workshop.images(each=80) / "train"
    words = ["03_pretrain.py", "--method", "dino", "--data", train, "--batch-size", 200]
    words += ["--out", workshop.folder / "refused"]
    said = stage(*words, code=2, GCL_GPU_GIB="23")
    report.expect("DINO, 200 images on 23 GiB is refused", "--grad-checkpoint" in said)


def out_of_memory(report, workshop):
    """A stage that runs out of memory says what to do, without a traceback."""
    words = ["04_linear_eval.py", "--data", workshop.images(), "--backbone", "random"]
    words += ["--size", 448, "--epochs", 1, "--batch-size", 24, "--workers", 0]
    words += ["--out", workshop.folder / "oom"]
    said = stage(*words, code=1, GCL_GPU_GIB="0.3")
    one_sentence = "memory" in said and "Traceback" not in said
    report.expect("out of memory is one sentence", one_sentence)
