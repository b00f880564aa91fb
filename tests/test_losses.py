"""The losses against the official code: values and gradients."""

import pytest
import torch
from ssl_goldens import gold, tolerance
from torch import nn

from models.barlow import barlow_loss
from models.byol import byol_loss
from models.dino import dino_loss
from models.method import embedding_stats, off_diagonal_squares
from models.registry import build_method
from models.simclr import simclr_loss
from models.swav import sinkhorn
from models.vicreg import vicreg_loss


def byol_of_four(p1, p2, z1, z2):
    return byol_loss(torch.stack([p1, z1]), torch.stack([p2, z2]))


def assert_gold(value, name, gradient=False):
    """A value is the official code's, in its own precision."""
    expected = gold(name, dtype=value.dtype)
    torch.testing.assert_close(value, *expected, **tolerance(value.dtype, gradient))


PAIR = "in/pair/x", "in/pair/y"
CASES = [
    ("vicreg/f64/repr", vicreg_loss, PAIR, dict(invariance=1, variance=0, covariance=0)),
    ("vicreg/f64/std", vicreg_loss, PAIR, dict(invariance=0, variance=1, covariance=0)),
    ("vicreg/f64/cov", vicreg_loss, PAIR, dict(invariance=0, variance=0, covariance=1)),
    ("vicreg/f64/total", vicreg_loss, PAIR, {}),
    ("barlow/f64/lambd0_0051", barlow_loss, PAIR, {}),
    ("barlow/f64/lambd0", barlow_loss, PAIR, dict(lambd=0)),
    ("simclr_tf/f64/T0.1", simclr_loss, PAIR, {}),
    ("simclr_tf/f64/T0.5", simclr_loss, PAIR, dict(temperature=0.5)),
    ("byol/f64", byol_of_four, ("in/byol/p1", "in/byol/p2", "in/byol/z1", "in/byol/z2"), {}),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key, loss, inputs, options", CASES, ids=[case[0] for case in CASES])
def test_pair_losses(key, loss, inputs, options, dtype):
    inputs = [x.requires_grad_() for x in gold(*inputs, dtype=dtype)]
    value, terms = loss(*inputs, **options)
    value.backward()
    assert all(not t.requires_grad and t.ndim == 0 for t in terms.values())
    assert_gold(value.detach(), f"{key}/loss")
    for x, name in zip(inputs, ("p1", "p2") if "byol" in key else ("x", "y"), strict=False):
        assert_gold(x.grad, f"{key}/grad_{name}", gradient=True)


DINO = [("center0", False, 0.04), ("center", True, 0.04), ("two_global", True, 0.04)]
DINO += [("warm_ep5", True, 0.04 + 0.03 * 5 / 29)]  # in epoch 5 of a warm-up of 30 to 0.07
SWAV = [("two_crops", 0, 0), ("multicrop", 6, 0), ("multicrop_queue", 6, 16)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key, center, temperature", DINO)
def test_dino(key, center, temperature, dtype):
    student, teacher, c = gold("in/dino/student", "in/dino/teacher", "in/dino/center", dtype=dtype)
    student = student[:12] if key == "two_global" else student
    module = build_method("dino", nn.Identity(), 4, projector="4-4-32").to(dtype)
    module.center.copy_(c * center)
    student.requires_grad_()
    scores = student.unflatten(0, (-1, 6)), teacher.unflatten(0, (-1, 6))
    loss, _ = dino_loss(*scores, module.center, teacher_temp=temperature)
    loss.backward()
    assert_gold(loss.detach(), f"dino/f64/{key}/loss")
    assert_gold(student.grad, f"dino/f64/{key}/grad_student", gradient=True)
    if key != "two_global":
        module.move_center(scores[1])
        assert_gold(module.center, f"dino/f64/{key}/center_after", gradient=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("key, local, queue", SWAV)
def test_swav(key, local, queue, dtype):
    z, w, old = gold("in/swav/z", "in/swav/prototypes", "in/swav/queue", dtype=dtype)
    settings = dict(projector="16-20", queue=queue, queue_start=0.0)
    module = build_method("swav", nn.Identity(), 16, **settings)
    module.to(dtype).projector = nn.Identity()
    module.prototypes.weight.data.copy_(w)
    module.queue.copy_(old[:, :queue])
    z = z[: 8 * (2 + local)].requires_grad_()
    crops = z.split(8)
    loss, _, embedding = module(crops[:2], crops[2:])
    loss.backward()
    assert_gold(loss.detach(), f"swav/f64/{key}/loss")
    for grad, name in (z.grad, "z"), (module.prototypes.weight.grad, "prototypes"):
        assert_gold(grad, f"swav/f64/{key}/grad_{name}", gradient=True)
    if queue:
        assert_gold(module.queue, f"swav/f64/{key}/queue_after", gradient=True)
    else:
        unit = nn.functional.normalize(z.detach(), dim=1)
        q = module.assign(unit[:16].unflatten(0, (2, 8)), False)
        assert_gold(q, f"swav/f64/{key}/q", gradient=True)


@pytest.mark.parametrize("same", [True, False])
def test_gram_form_equals_the_d_x_d_form(same):
    a, b = torch.randn(2, 7, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a.requires_grad_()
    grads, values = [], []

    def official(a, b, diagonal):
        return ((a.T @ b) * (1 - torch.eye(19))).square().sum()

    for form in off_diagonal_squares, official:
        b = a if same else b
        values.append(form(a, b, (a * b).sum(0)))
        grads += torch.autograd.grad(values[-1], a)
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_embedding_stats_and_sinkhorn():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 32, generator=g)
    stats = embedding_stats(z)
    assert 28 < stats["effective_rank"] <= 32
    assert stats["embedding_std"] == pytest.approx(1, abs=0.05)
    stats = embedding_stats(z[:1].expand(200, 32))
    assert stats["effective_rank"] == pytest.approx(1, abs=1e-4) and stats["embedding_std"] < 1e-6
    wide = torch.randn(8, 64, generator=g) * (torch.arange(64) < 4)
    assert 3 < embedding_stats(wide)["effective_rank"] < 4.001
    q = sinkhorn(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) + 1000)
    torch.testing.assert_close(q.sum(1), torch.ones(8))
