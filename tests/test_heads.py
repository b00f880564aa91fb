"""The methods around a backbone, and two processes against one."""

import copy

import pytest
import torch
from conftest import run
from ssl_goldens import TINY
from test_lars import lars
from torch import nn

from base import parallel
from models.registry import METHODS, build_method


def test_published_projectors():
    with torch.device("meta"):
        names = "vicreg barlow swav dino simclr".split()
        vicreg, barlow, swav, dino, simclr = (build_method(n, nn.Identity(), 2048) for n in names)
    assert sum(p.numel() for p in vicreg.projector.parameters()) == 151_044_096
    assert sum(p.numel() for p in barlow.projector.parameters()) == 151_027_712
    assert 23_508_032 + sum(p.numel() for p in swav.parameters()) == 28_354_752
    assert dino.prototypes.weight.shape == (65536, 256) and swav.queue.shape == (2, 3840, 128)
    assert [type(layer).__name__ for layer in simclr.projector[-2:]] == ["Linear", "BatchNorm1d"]


class Recorder(nn.Module):
    """A backbone of images that writes down the batch and size of each forward pass."""

    def __init__(self):
        super().__init__()
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), *pool)
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), x.shape[-1]))
        return self.net(x)


def images(seed=0, n=4):
    g = torch.Generator().manual_seed(seed)
    sizes = (3, 8), (2, 6)
    return [list(torch.randn(count, n, 3, size, size, generator=g)) for count, size in sizes]


@pytest.mark.parametrize("name", METHODS)
def test_crops_that_share_a_forward_pass(name):
    apart = name in ("vicreg", "barlow", "byol")
    calls = [(4, 8)] * 3 + [(4, 6)] * 2 if apart else [(12, 8), (8, 6)]
    torch.manual_seed(0)
    module = build_method(name, Recorder(), 12, **TINY[name])
    loss, terms, embedding = module(*images())
    loss.backward()
    assert module.backbone.calls == calls
    assert embedding.shape[0] == 4 and not embedding.requires_grad and torch.isfinite(loss)
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, "DistributedDataParallel wants a gradient of every parameter"
    if hasattr(module, "teacher"):
        teacher = module.teacher[0]
        assert teacher.calls == ([(12, 8)] if name == "dino" else calls)
        assert teacher.net[1].running_mean.any(), "it has statistics of its own"
        assert (module.encoder() is teacher) == (name == "dino")


@pytest.mark.parametrize("name", list(METHODS))
def test_autocast_keeps_the_loss_in_float32_and_resume_is_exact(name):
    def train(module, steps):
        optimizer = lars(module, name)
        losses = []
        for step in steps:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, terms, embedding = module(*images(step), epoch=step / 2)
            assert all(t.dtype == torch.float32 for t in (loss, *terms.values()))
            optimizer.zero_grad()
            loss.backward()
            module.before_update(step / 2)
            for p in (p for p in module.parameters() if p.grad is not None):
                p.data -= 0.05 * p.grad
            module.after_update(step / 6)
            losses.append(loss.item())
        return losses

    torch.manual_seed(0)
    first = build_method(name, Recorder(), 12, **TINY[name])
    begin = train(first, range(3))
    again = build_method(name, Recorder(), 12, **TINY[name])
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    assert train(first, range(3, 6)) == train(again, range(3, 6)) and len(set(begin)) == 3


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_prototypes_are_frozen_at_first(name):
    module = build_method(name, Recorder(), 12, **TINY[name] | dict(freeze=1.0))
    for epoch, frozen in (0.0, True), (0.99, True), (1.0, False):
        module(*images(), epoch=epoch)[0].backward()
        module.before_update(epoch)
        assert (module.prototypes.weight.grad is None) == frozen


@pytest.mark.parametrize("name", ["dino", "byol"])
def test_teacher_moves_by_parameters_only(name):
    module = build_method(name, Recorder(), 12, **TINY[name])
    with torch.no_grad():
        for p in module.backbone.parameters():
            p += 1
    before = copy.deepcopy(module.teacher.state_dict())
    module.after_update(0.5)
    m = 1 - (1 - module.momentum) / 2
    student = dict(module.backbone.named_parameters())
    for key, value in module.teacher.state_dict().items():
        old, moved = before[key], key[:2] == "0." and key[2:] in student
        torch.testing.assert_close(value, m * old + (1 - m) * student[key[2:]] if moved else old)


def test_swav_queue_waits_until_it_is_due_and_full():
    module = build_method("swav", Recorder(), 12, **TINY["swav"] | dict(queue_start=1.0, queue=10))
    filled = []
    for step in range(6):  # batches of 4; from step 2 on the epoch is 1
        module(*images(step), epoch=step / 2)
        filled.append(int(module.queue[0].any(1).sum()))
    assert filled == [0, 0, 4, 8, 10, 10]


def train_toy(name, module, rank, world):
    """Four float64 steps on this process's share of 8 images; all gradients, the last state."""
    g = torch.Generator().manual_seed(1)
    shape = 4, 5, 8, 20  # steps, crops, images, features
    batches = torch.randn(shape, dtype=torch.float64, generator=g)
    inner, grads = getattr(module, "module", module), {}
    optimizer = lars(inner, name)
    for step, batch in enumerate(batches):
        crops = [x.chunk(world)[rank] for x in batch]
        for group in optimizer.param_groups:
            group["lr"] = 10 * group["lr_scale"]
        optimizer.zero_grad()
        module(crops[:3], crops[3:], epoch=float(step))[0].backward()
        for key, p in inner.named_parameters():
            if p.requires_grad:
                grads[f"{step}.{key}"] = p.grad.clone()
        inner.before_update(float(step))
        optimizer.step()
        inner.after_update(step / 4)
    return grads, inner.state_dict()


def toy(name):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(20, 12), nn.BatchNorm1d(12))
    return build_method(name, backbone, 12, **TINY[name]).double()


def worker(folder):
    cpu = torch.device("cpu")
    parallel.join(cpu)
    results = {}
    for name in METHODS:
        module = toy(name)
        network = parallel.data_parallel(module, cpu)
        results[name] = train_toy(name, network, parallel.rank(), 2)
    torch.save(results, f"{folder}/{parallel.rank()}.pth")
    parallel.leave()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    run("tests/otherwise.py test_heads:worker", folder, processes=2)
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", list(METHODS))
def test_two_processes_equal_one(two_processes, name):
    one = train_toy(name, toy(name), 0, 1)
    for rank in range(2):
        for ours, expected in zip(two_processes[rank][name], one, strict=True):
            assert ours.keys() == expected.keys()
            for key, value in expected.items():
                difference = (ours[key] - value).double().norm()
                assert difference <= 1e-10 * value.double().norm() + 1e-12, (rank, key)
    if name in ("dino", "swav"):
        buffer = one[1]["center" if name == "dino" else "queue"]
        assert buffer.any(-1).all(), "the centre has moved, the queue is full"
