"""Figures of a training step: VICReg's loss, LARS, the whole step, mixing, memory."""

import copy
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import memory
import torch
import torch.nn.functional as F
from bench_tools import compare, in_batches, photographs, precisions, report
from torch._subclasses.fake_tensor import FakeTensorMode

from base import run
from images import batch_views, views
from images.files import Reading
from images.pairs import PairDataset
from images.pictures import square, write_image
from images.read import read_image
from models.lars import build_optimizer
from models.registry import build_method, recipe_of
from models.resnet import build_backbone
from models.vicreg import vicreg_loss

GIB = 2**30
LAST = torch.channels_last


def vicreg(backbone, width):
    """VICReg on a backbone, with a projector of three layers of this width."""
    return build_method("vicreg", *build_backbone(backbone), projector=f"{width}-{width}-{width}")


# ---------------------------------------------------------------- the loss
def plain_loss(x, y):
    """VICReg of embeddings (n, d) from two d x d covariances, the way it was published."""
    n, d = x.shape
    loss = 25 * F.mse_loss(x, y)
    for z in (x, y):
        loss = loss + 25 * F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean() / 2
        z = z - z.mean(0)
        covariance = z.T @ z / (n - 1)
        loss = loss + covariance.fill_diagonal_(0).pow(2).sum() / d
    return loss


def our_loss(x, y):
    return vicreg_loss(x, y)[0]


def forward_backward(function, x, y):
    x.grad = None
    loss = function(x, y)
    loss.backward()
    return loss


def most_memory(function):
    """GiB of the tensors that loss and gradient make for embeddings of 800 x 8192."""
    with FakeTensorMode():
        x = torch.empty(800, 8192, requires_grad=True)
        y = torch.empty(800, 8192)
        with memory.Held() as held:
            forward_backward(function, x, y)
    return held.most / GIB


def bench_loss(args, device):
    baseline = "d x d covariances"
    n = 16 if args.quick else 64
    for d in (64, 128) if args.quick else (2048, 8192):
        x, y = torch.randn(2, n, d, device=device).cumsum(0)  # y is x and some noise
        x.requires_grad_()
        ours = partial(forward_backward, our_loss, x, y)
        plain = partial(forward_backward, plain_loss, x, y)
        a, b = 1e3 * compare(device, args.rounds, ours, plain, equal=1e-4)
        report(f"loss, projector {d}", a, "ms", baseline, b)
    a = most_memory(our_loss)
    b = most_memory(plain_loss)
    report("loss, memory at 800 x 8192", a, "GiB", baseline, b, ">= 10")


# ---------------------------------------------------------------- LARS
def our_lars(model, lr):
    """A function that updates the model, as in 03_pretrain.py."""
    optimizer = build_optimizer(model, recipe_of("vicreg"))
    for group in optimizer.param_groups:
        group["lr"] = lr
    return optimizer.step


def plain_lars(model, lr):
    """A function that updates the model as published, one parameter after the other."""
    momenta = [torch.zeros_like(p) for p in model.parameters()]

    @torch.no_grad()
    def update():
        for p, m in zip(model.parameters(), momenta, strict=True):
            change = p.grad
            if p.ndim > 1:
                change = change.add(p, alpha=1e-6)
                w = p.norm()
                c = change.norm()
                change = change * torch.where((w > 0) & (c > 0), 1e-3 * w / c, 1)
            m.mul_(0.9).add_(change)
            p.add_(m, alpha=-lr)

    return update


def bench_lars(args, device):
    model, _ = build_backbone("resnet10" if args.quick else "resnet50")
    model = model.to(device)
    twin = copy.deepcopy(model)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad

    def step(network, update):
        update()
        return network.layer4[0].conv1.weight

    ours = partial(step, model, our_lars(model, 1e-3))
    plain = partial(step, twin, plain_lars(twin, 1e-3))
    a, b = 1e3 * compare(device, 5 * args.rounds, ours, plain, equal=1e-4)
    report("lars, ResNet-50", a, "ms", "loop over parameters", b)


# ---------------------------------------------------------------- a step
# The learning rate is 0, which costs as much as any other: both networks stay the same.
def our_trainer(model, device, precision):
    """step(crops) -> loss, as in 03_pretrain.py."""
    model = model.to(device, memory_format=LAST)
    update = our_lars(model, 0.0)

    def step(crops):
        with run.autocast(device, precision):
            loss = model(crops)[0]
        model.zero_grad(set_to_none=True)
        loss.backward()
        update()
        return loss

    return step


def plain_trainer(model, device):
    """step(crops) -> loss, as published, in float32."""
    model = model.to(device)
    update = plain_lars(model, 0.0)

    def step(crops):
        x, y = (model.projector(model.backbone(crop)) for crop in crops)
        loss = plain_loss(x, y)
        model.zero_grad(set_to_none=True)
        loss.backward()
        update()
        return loss

    return step


def bench_step(args, device):
    backbone = "resnet18"
    n = 64
    size = 64
    aims = {2048: ">= 1.8", 8192: ">= 2.8"}  # in bf16, for each width of the projector
    if args.quick:
        backbone = "resnet10"
        n = 4
        size = 32
        aims = {16: "-", 32: "-"}
    crops = torch.randn(2, n, 3, size, size, device=device).unbind()
    crops_last = [crop.contiguous(memory_format=LAST) for crop in crops]
    for d, aim in aims.items():
        for precision in precisions(device):
            model = vicreg(backbone, d)
            ours = our_trainer(copy.deepcopy(model), device, precision)
            plain = plain_trainer(model, device)
            seconds = compare(
                device,
                args.rounds,
                partial(ours, crops_last),
                partial(plain, crops),
                equal={"fp32": 1e-3, "bf16": 2e-2}[precision],
            )
            a, b = n / seconds
            wanted = aim if precision == "bf16" else "-"
            report(f"step, projector {d}, {precision}", a, "pairs/s", "plain, fp32", b, wanted)


# ---------------------------------------------------------------- mixing
class Mix(NamedTuple):
    backbone: str
    number: int  # of images
    batch: int
    size: int  # pixels of a view


def mix_loader(pairs, order, cuda):
    """As images.files.read_ahead; but its processes stay, since a round is only one epoch."""
    return torch.utils.data.DataLoader(
        Reading(pairs.batch),
        batch_size=None,
        sampler=order,
        num_workers=os.cpu_count() if cuda else 0,
        pin_memory=cuda,
        persistent_workers=cuda,
    )


def nothing(crops):
    """Stands for the step where only the views are measured."""


def bench_mix(args, device):
    cuda = device.type == "cuda"
    setting = Mix("resnet18", number=64, batch=64, size=64)
    if cuda:
        setting = Mix("resnet50", number=1024, batch=128, size=224)
    if args.quick:
        setting = Mix("resnet10", number=4, batch=4, size=32)
    train = our_trainer(vicreg(setting.backbone, 512), device, "auto")
    mean = views.FIRST["mean"]
    std = views.FIRST["std"]

    def epoch(loader, use):
        for images, choices, _ in loader:
            crops = []
            for image, choice in zip(images, choices, strict=True):
                image = image.to(device, non_blocking=True)
                crops.append(batch_views.colour_and_normalise(image, choice, mean, std))
            use(crops)

    with TemporaryDirectory() as folder:
        real = Path(folder, "real")
        mirror = Path(folder, "generated")
        paths = photographs(real, setting.number)
        for path in paths:
            write_image(mirror / path, square(read_image(real / path), 256))
        order = in_batches(setting.number, setting.batch, epoch=0)
        loaders = []
        for rate in (0.5, 0.0):
            pairs = PairDataset(
                real,
                paths,
                recipe_of("vicreg")["views"],
                setting.size,
                mix=rate,
                generated=[mirror],
                on_device=cuda,
            )
            loaders.append(mix_loader(pairs, order, cuda))
        for what, use, aim in (("views", nothing, "-"), ("views and step", train, ">= 0.97")):
            epochs = [partial(epoch, loader, use) for loader in loaders]
            a, b = setting.number / compare(device, args.rounds, *epochs)
            report(f"mix, gamma 0.5, {what}", a, "images/s", "gamma 0", b, aim)


# ---------------------------------------------------------------- memory
def bench_memory(args, device):
    model = vicreg("resnet10", 32) if args.quick else vicreg("resnet50", 8192)
    crop = (4, 3, 64, 64) if args.quick else (200, 3, 224, 224)
    optimizer = partial(build_optimizer, recipe=recipe_of("vicreg"))
    needed = memory.count_step(model, optimizer, ([crop, crop], []))
    aim = ">= 1 (without workspaces)"
    report("memory, ResNet-50, 200 pairs", needed["peak"], "GiB", "a GPU's", 24, aim)
    kept = needed["kept"]
    state = needed["state"]
    print(
        f"  of it {kept:.1f} GiB ({kept * GIB / 1e9:.1f} GB) kept for the backward pass, "
        f"{state:.1f} GiB ({state * GIB / 1e9:.1f} GB) weights, gradients and momenta"
    )
