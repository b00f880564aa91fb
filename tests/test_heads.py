"""models/heads.py and models/lars.py against reference values computed with the official code
(facebookresearch/vicreg @ 4e12602, barlowtwins @ 8e8d284, dino @ 7c446df, swav @ 06b1b7c,
google-research/simclr @ 383d414, deepmind-research @ 09270ed, apex LARC @ cb65b8e~1), and two
processes against one.
"""

import copy
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import losses, parallel
from models.heads import METHODS, build_method
from models.lars import LARS, cosine_warmup, param_groups, peak_lr

GOLD = {
    k: torch.from_numpy(v)
    for k, v in np.load(Path(__file__).parent / "goldens/ssl/losses.npz").items()
}
TINY = dict(
    vicreg=dict(projector="16-24"),
    barlow=dict(projector="16-24"),
    simclr=dict(projector="16-16-8"),
    dino=dict(projector="16-16-8-32", freeze=0.0),
    byol=dict(projector="16-8"),
    swav=dict(projector="16-8-20", freeze=0.0, queue=16, queue_start=0.0, global_views=3),
)


def gold(*names, dtype=torch.float64):
    return [GOLD[name].to(dtype, copy=True) for name in names]


# ---------------- losses ----------------
PAIR = "in/pair/x", "in/pair/y"
CASES = [
    ("vicreg/f64/repr", losses.vicreg_loss, PAIR, dict(invariance=1, variance=0, covariance=0)),
    ("vicreg/f64/std", losses.vicreg_loss, PAIR, dict(invariance=0, variance=1, covariance=0)),
    ("vicreg/f64/cov", losses.vicreg_loss, PAIR, dict(invariance=0, variance=0, covariance=1)),
    ("vicreg/f64/total", losses.vicreg_loss, PAIR, {}),
    ("barlow/f64/lambd0_0051", losses.barlow_loss, PAIR, {}),
    ("barlow/f64/lambd0", losses.barlow_loss, PAIR, dict(lambd=0)),
    ("simclr_tf/f64/T0.1", losses.simclr_loss, PAIR, {}),
    ("simclr_tf/f64/T0.5", losses.simclr_loss, PAIR, dict(temperature=0.5)),
    ("byol/f64", losses.byol_loss, ("in/byol/p1", "in/byol/p2", "in/byol/z1", "in/byol/z2"), {}),
]


def tolerance(dtype, gradient=False):
    if dtype == torch.float64:
        return dict(rtol=1e-10, atol=1e-12)
    return dict(rtol=2e-5, atol=2e-6 if gradient else 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key, loss, inputs, options", CASES, ids=[case[0] for case in CASES])
def test_pair_losses(key, loss, inputs, options, dtype):
    inputs = [x.requires_grad_() for x in gold(*inputs, dtype=dtype)]
    value, terms = loss(*inputs, **options)
    value.backward()
    assert all(not t.requires_grad and t.ndim == 0 for t in terms.values())
    torch.testing.assert_close(
        value.detach(), *gold(f"{key}/loss", dtype=dtype), **tolerance(dtype)
    )
    for x, name in zip(inputs, ("p1", "p2") if "byol" in key else ("x", "y"), strict=False):
        torch.testing.assert_close(
            x.grad, *gold(f"{key}/grad_{name}", dtype=dtype), **tolerance(dtype, True)
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "key, center, epoch",
    [("center0", False, 0), ("center", True, 0), ("warm_ep5", True, 5), ("two_global", True, 0)],
)
def test_dino(key, center, epoch, dtype):
    student, teacher, c = gold("in/dino/student", "in/dino/teacher", "in/dino/center", dtype=dtype)
    student = student[:12] if key == "two_global" else student
    temp = (0.04, 0.07, 30) if key == "warm_ep5" else (0.04, 0.04, 0)
    module = build_method("dino", nn.Identity(), 4, projector=(4, 4, 32), teacher_temp=temp).to(
        dtype
    )
    module.center.copy_(c * center)
    student.requires_grad_()
    scores = student.unflatten(0, (-1, 6)), teacher.unflatten(0, (-1, 6))
    loss, _ = losses.dino_loss(*scores, module.center, teacher_temp=module.temperature(epoch + 0.5))
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), *gold(f"dino/f64/{key}/loss", dtype=dtype), **tolerance(dtype)
    )
    expected = gold(f"dino/f64/{key}/grad_student", dtype=dtype)
    torch.testing.assert_close(student.grad, *expected, **tolerance(dtype, True))
    if key != "two_global":
        module.move_center(scores[1])
        expected = gold(f"dino/f64/{key}/center_after", dtype=dtype)
        torch.testing.assert_close(module.center, *expected, **tolerance(dtype, True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "key, local, queue", [("two_crops", 0, 0), ("multicrop", 6, 0), ("multicrop_queue", 6, 16)]
)
def test_swav(key, local, queue, dtype):
    z, w, old = gold("in/swav/z", "in/swav/prototypes", "in/swav/queue", dtype=dtype)
    module = build_method(
        "swav", nn.Identity(), 16, projector=(16, 20), queue=queue, queue_start=0.0
    )
    module.to(dtype).projector = nn.Identity()
    module.prototypes.weight.data.copy_(w)
    module.queue.copy_(old[:, :queue])
    z = z[: 8 * (2 + local)].requires_grad_()
    crops = z.split(8)
    loss, _, embedding = module(crops[:2], crops[2:])
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), *gold(f"swav/f64/{key}/loss", dtype=dtype), **tolerance(dtype)
    )
    for grad, name in (z.grad, "z"), (module.prototypes.weight.grad, "prototypes"):
        expected = gold(f"swav/f64/{key}/grad_{name}", dtype=dtype)
        torch.testing.assert_close(grad, *expected, **tolerance(dtype, True))
    if queue:
        expected = gold(f"swav/f64/{key}/queue_after", dtype=dtype)
        torch.testing.assert_close(module.queue, *expected, **tolerance(dtype, True))
    else:
        q = module.assign(
            nn.functional.normalize(z.detach(), dim=1)[:16].unflatten(0, (2, 8)), False
        )
        torch.testing.assert_close(
            q, *gold(f"swav/f64/{key}/q", dtype=dtype), **tolerance(dtype, True)
        )


def test_sinkhorn_survives_large_scores():
    q = losses.sinkhorn(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) + 1000)
    torch.testing.assert_close(q.sum(1), torch.ones(8))


@pytest.mark.parametrize("same", [True, False])
def test_gram_form_equals_the_d_x_d_form(same):
    a, b = torch.randn(2, 7, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a.requires_grad_()
    grads, values = [], []

    def official(a, b, diagonal):
        return ((a.T @ b) * (1 - torch.eye(19))).square().sum()

    for form in losses.off_diagonal_squares, official:
        b = a if same else b
        values.append(form(a, b, (a * b).sum(0)))
        grads += torch.autograd.grad(values[-1], a)
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


# ---------------- LARS and schedules ----------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "method, reference, case",
    [
        ("vicreg", "vicreg", "wd1e-06"),
        ("vicreg", "vicreg", "wd0.1"),
        ("vicreg", "vicreg", "w0zero_wd0.1"),
        ("barlow", "barlow", "wd1e-06"),
        ("barlow", "barlow", "wd0.1"),
        ("swav", "swav_larc", "wd1e-06"),
        ("swav", "swav_larc", "wd0.1"),
    ],
)
def test_lars(method, reference, case, dtype):
    module = nn.Linear(4, 3).to(dtype)
    w, b = module.weight, module.bias
    w.data, b.data = gold("in/lars/w0", "in/lars/b0", dtype=dtype)
    if case.startswith("w0zero"):
        w.data.zero_()
    optimizer = LARS(
        param_groups(module, METHODS[method] | dict(weight_decay=float(case.split("wd")[1])))
    )
    for t, base in enumerate(GOLD["in/lars/lr"].tolist()):
        w.grad, b.grad = (GOLD[f"in/lars/g{name}"][t].to(dtype) for name in "wb")
        for group in optimizer.param_groups:  # the reference's base of Barlow Twins' weights is 0.2
            group["lr"] = base * group["lr_scale"] * (0.2 if method == "barlow" else 1)
        optimizer.step()
        for p, name in (w, "w"), (b, "b"):
            expected = gold(f"lars_{reference}/f64/{case}/{name}{t + 1}", dtype=dtype)
            torch.testing.assert_close(p.detach(), *expected, **tolerance(dtype, True))


def test_lars_state_is_plain_data(tmp_path):
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = LARS(param_groups(module, METHODS["barlow"]))
    optimizer.step()  # without any gradient
    module(torch.randn(5, 4)).square().sum().backward()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pth")
    other = LARS(param_groups(copy.deepcopy(module), METHODS["barlow"]))
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [g["lr_scale"] for g in other.param_groups] == [1.0, 0.0048 / 0.2]
    assert len(other.state) == 4 and other.param_groups[0]["lr"] == 0.1


def test_larc_leaves_a_weight_without_gradient():
    module = nn.Linear(4, 3)
    before = module.weight.detach().clone()
    optimizer = LARS(param_groups(module, METHODS["swav"] | dict(weight_decay=0.1)))
    optimizer.param_groups[0]["lr"] = 1.0
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("name", ["readme_1node", "tiny"])
def test_schedule_vicreg(name):
    epochs, batch, base, n = GOLD[f"sched_vicreg/{name}/cfg_epochs_bs_baselr_len"].tolist()
    lr = peak_lr(base, "linear", batch)
    steps = GOLD[f"sched_vicreg/{name}/steps"].tolist()
    ours = [cosine_warmup(s, epochs * n, 10 * n, lr, end=0.001 * lr) for s in steps]
    np.testing.assert_allclose(ours, GOLD[f"sched_vicreg/{name}/lr"], rtol=1e-9)


@pytest.mark.parametrize("name", ["default", "tiny"])
def test_schedule_barlow(name):
    epochs, batch, n = GOLD[f"sched_barlow/{name}/cfg_epochs_bs_len"].tolist()
    recipe = METHODS["barlow"]
    lr = peak_lr(recipe["lr"], recipe["scaling"], batch)
    ours = np.array(
        [
            cosine_warmup(s, epochs * n, 10 * n, lr, recipe["start"] * lr, recipe["end"] * lr)
            for s in GOLD[f"sched_barlow/{name}/steps"].tolist()
        ]
    )
    np.testing.assert_allclose(ours, GOLD[f"sched_barlow/{name}/lr_weights"], rtol=1e-9)
    np.testing.assert_allclose(
        ours * recipe["lr_1d"], GOLD[f"sched_barlow/{name}/lr_biases"], rtol=1e-9
    )


@pytest.mark.parametrize("name", ["rn50_readme", "rn50_800ep_args", "tiny"])
def test_schedule_dino(name):
    lr, end, epochs, n, warmup = GOLD[f"sched_dino/{name}/cfg_lr_minlr_epochs_len_warmup"].tolist()
    tail = "_all" if name == "tiny" else ""
    steps = range(30) if name == "tiny" else GOLD[f"sched_dino/{name}/steps"].tolist()
    ours = [cosine_warmup(s, epochs * n, warmup * n, lr, end=end, linspace=True) for s in steps]
    np.testing.assert_allclose(ours, GOLD[f"sched_dino/{name}/lr{tail}"], rtol=1e-9)
    momentum = [cosine_warmup(s / (epochs * n), 1.0, 0, base=0.996, end=1.0) for s in steps]
    np.testing.assert_allclose(momentum, GOLD[f"sched_dino/{name}/momentum{tail}"], rtol=1e-12)


@pytest.mark.parametrize(
    "name, last, warmup", [("rn50_readme", 0.04, 0), ("rn50_800ep_args", 0.07, 50)]
)
def test_teacher_temperature(name, last, warmup):
    module = build_method(
        "dino", nn.Identity(), 4, projector=(4, 4, 8), teacher_temp=(0.04, last, warmup)
    )
    ours = [module.temperature(epoch) for epoch in range(800 if warmup else 100)]
    np.testing.assert_allclose(ours, GOLD[f"sched_dino/{name}/teacher_temp_by_epoch"], rtol=1e-12)


@pytest.mark.parametrize("name", ["ep100", "tiny"])
def test_schedule_swav(name):
    n, warmup, epochs, base = GOLD[
        f"sched_swav/{name}/cfg_len_warmup_epochs_base_final_start"
    ].tolist()[:4]
    recipe = METHODS["swav"]
    assert peak_lr(recipe["lr"], recipe["scaling"], 4096) == pytest.approx(base)
    start, end = recipe["start"] * base, recipe["end"] * base
    ours = [
        cosine_warmup(s, epochs * n, warmup * n, base, start, end, linspace=True)
        for s in GOLD[f"sched_swav/{name}/steps"].tolist()
    ]
    np.testing.assert_allclose(ours, GOLD[f"sched_swav/{name}/lr"], rtol=1e-9)


@pytest.mark.parametrize("name", ["ep100_bs4096", "ep1000_bs4096"])
def test_schedule_byol(name):
    total, warmup, base, ema, batch = GOLD[
        f"sched_byol/{name}/cfg_maxsteps_warmup_baselr_ema_bs"
    ].tolist()
    steps = GOLD[f"sched_byol/{name}/steps"].tolist()
    ours = [cosine_warmup(s, total, warmup, peak_lr(base, "linear", batch)) for s in steps]
    np.testing.assert_allclose(
        ours, GOLD[f"sched_byol/{name}/lr"], rtol=1e-6, atol=1e-7
    )  # theirs: float32
    momentum = [cosine_warmup(s / total, 1.0, 0, ema, end=1.0) for s in steps]
    np.testing.assert_allclose(momentum, GOLD[f"sched_byol/{name}/target_ema"], rtol=1e-9)


def test_simclr_scaling_rules_meet_at_4096():
    assert peak_lr(0.075, "sqrt", 4096) == pytest.approx(peak_lr(0.3, "linear", 4096))


def test_vicreg_training_end_to_end():
    """Six steps of backbone, projector, loss, LARS and schedule are the official ones, BatchNorm
    too.
    """
    module = build_method("vicreg", nn.Linear(20, 16), 16, projector="32-32-24").double()
    prefix = "e2e_vicreg/init/"
    module.load_state_dict({k[len(prefix) :]: v for k, v in GOLD.items() if k.startswith(prefix)})
    optimizer = LARS(param_groups(module, METHODS["vicreg"]))
    for t, step in enumerate(range(0, 12, 2)):
        for group in optimizer.param_groups:
            group["lr"] = cosine_warmup(step, 12, 10, peak_lr(3.2, "linear", 16), end=0.001 * 0.2)
        loss, _, _ = module([GOLD["in/e2e/x"][t], GOLD["in/e2e/y"][t]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(
            loss.detach(), GOLD["e2e_vicreg/f64/losses"][t], rtol=1e-10, atol=0
        )
    for name, value in module.state_dict().items():
        torch.testing.assert_close(
            value, GOLD[f"e2e_vicreg/f64/final/{name}"], rtol=1e-9, atol=1e-11
        )


# ---------------- modules ----------------
def test_published_projectors():
    with torch.device("meta"):
        sizes = {
            name: sum(
                p.numel() for p in build_method(name, nn.Identity(), 2048).projector.parameters()
            )
            for name in ("vicreg", "barlow")
        }
        swav, dino, simclr = (
            build_method(name, nn.Identity(), 2048) for name in ("swav", "dino", "simclr")
        )
    assert sizes == dict(vicreg=151_044_096, barlow=151_027_712)
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
    return [
        list(torch.randn(count, n, 3, size, size, generator=g)) for count, size in ((3, 8), (2, 6))
    ]


@pytest.mark.parametrize(
    "name, calls",
    [
        *((name, [(4, 8)] * 3 + [(4, 6)] * 2) for name in ("vicreg", "barlow", "byol")),
        *((name, [(12, 8), (8, 6)]) for name in ("simclr", "dino", "swav")),
    ],
)
def test_crops_that_share_a_forward_pass(name, calls):
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
        assert teacher.net[1].running_mean.any(), (
            "the teacher is in training mode, with its own statistics"
        )
        assert (module.encoder() is teacher) == (name == "dino")


@pytest.mark.parametrize("name", list(METHODS))
def test_autocast_keeps_the_loss_in_float32_and_resume_is_exact(name):
    def run(module, steps):
        optimizer = LARS(param_groups(module, METHODS[name]))
        losses = []
        for step in steps:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, terms, embedding = module(*images(step), epoch=step / 2)
            assert loss.dtype == torch.float32 and all(
                t.dtype == torch.float32 for t in terms.values()
            )
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
    begin = run(first, range(3))
    again = build_method(name, Recorder(), 12, **TINY[name])
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    assert run(first, range(3, 6)) == run(again, range(3, 6)) and len(set(begin)) == 3


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


def test_embedding_stats():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 32, generator=g)
    stats = losses.embedding_stats(z)
    assert 28 < stats["effective_rank"] <= 32 and stats["embedding_std"] == pytest.approx(
        1, abs=0.05
    )
    stats = losses.embedding_stats(z[:1].expand(200, 32))
    assert stats["effective_rank"] == pytest.approx(1, abs=1e-4) and stats["embedding_std"] < 1e-6
    wide = losses.embedding_stats(
        torch.randn(8, 64, generator=g) @ torch.diag((torch.arange(64) < 4).float())
    )
    assert 3 < wide["effective_rank"] < 4.001


# ---------------- two processes against one ----------------
def train_toy(name, module, rank, world):
    """Four float64 steps on this process's share of 8 images; all gradients, and the state at the
    end.
    """
    g = torch.Generator().manual_seed(1)
    batches = torch.randn(
        4, 5, 8, 20, dtype=torch.float64, generator=g
    )  # steps, crops, images, features
    inner, grads = getattr(module, "module", module), {}
    optimizer = LARS(param_groups(inner, METHODS[name]))
    for step, batch in enumerate(batches):
        crops = [x.chunk(world)[rank] for x in batch]
        for group in optimizer.param_groups:
            group["lr"] = 10 * group["lr_scale"]
        optimizer.zero_grad()
        module(crops[:3], crops[3:], epoch=float(step))[0].backward()
        grads |= {
            f"{step}.{k}": p.grad.clone() for k, p in inner.named_parameters() if p.requires_grad
        }
        inner.before_update(float(step))
        optimizer.step()
        inner.after_update(step / 4)
    return grads, inner.state_dict()


def toy(name):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(20, 12), nn.BatchNorm1d(12))
    return build_method(name, backbone, 12, **TINY[name]).double()


def worker(rank, folder, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    parallel.join(cpu)
    results = {}
    for name in METHODS:
        module = toy(name)
        network = parallel.data_parallel(module, cpu)
        results[name] = train_toy(name, network, rank, 2)
    torch.save(results, f"{folder}/{rank}.pth")
    parallel.leave()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torch.multiprocessing.spawn(worker, (str(folder), port), nprocs=2)
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
