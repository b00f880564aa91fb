"""LARS, its groups and the schedules against the official code."""

import copy

import numpy as np
import pytest
import torch
from ssl_goldens import GOLD, gold, tolerance
from torch import nn

from models.lars import LARS, cosine_warmup, param_groups, peak_lr
from models.registry import build_method, recipe_of


def lars(module, method, **changes):
    recipe = recipe_of(method) | changes
    return LARS(param_groups(module, recipe), recipe)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ["wd1e-06", "wd0.1", "w0zero_wd0.1"])
@pytest.mark.parametrize("method", ["vicreg", "barlow", "swav"])
def test_lars(method, case, dtype):
    if case.startswith("w0zero") and method != "vicreg":
        pytest.skip("without a reference value")
    reference = "swav_larc" if method == "swav" else method
    module = nn.Linear(4, 3).to(dtype)
    w, b = module.weight, module.bias
    w.data, b.data = gold("in/lars/w0", "in/lars/b0", dtype=dtype)
    if case.startswith("w0zero"):
        w.data.zero_()
    optimizer = lars(module, method, weight_decay=float(case.split("wd")[1]))
    for t, base in enumerate(GOLD["in/lars/lr"].tolist()):
        w.grad, b.grad = (GOLD[f"in/lars/g{name}"][t].to(dtype) for name in "wb")
        for group in optimizer.param_groups:  # the reference's base of Barlow Twins' weights is 0.2
            group["lr"] = base * group["lr_scale"] * (0.2 if method == "barlow" else 1)
        optimizer.step()
        for p, name in (w, "w"), (b, "b"):
            expected = gold(f"lars_{reference}/f64/{case}/{name}{t + 1}", dtype=dtype)
            torch.testing.assert_close(p.detach(), *expected, **tolerance(dtype, True))


def test_states_and_scales(tmp_path):
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = lars(module, "barlow")
    optimizer.step()  # without any gradient
    module(torch.randn(5, 4)).square().sum().backward()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pth")
    other = lars(copy.deepcopy(module), "barlow")
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert [g["lr_scale"] for g in other.param_groups] == [1.0, 0.0048 / 0.2]
    assert len(other.state) == 4 and other.param_groups[0]["lr"] == 0.1
    module = nn.Linear(4, 3)
    before = module.weight.detach().clone()
    optimizer = lars(module, "swav", weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 1.0
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    assert torch.equal(module.weight, before)
    assert peak_lr(0.075, "sqrt", 4096) == pytest.approx(peak_lr(0.3, "linear", 4096))


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
    recipe = recipe_of("barlow")
    lr = peak_lr(recipe["learning_rate"], recipe["scaling"], batch)
    ends = recipe["start"] * lr, recipe["end"] * lr
    steps = GOLD[f"sched_barlow/{name}/steps"].tolist()
    ours = np.array([cosine_warmup(s, epochs * n, 10 * n, lr, *ends) for s in steps])
    np.testing.assert_allclose(ours, GOLD[f"sched_barlow/{name}/lr_weights"], rtol=1e-9)
    of_biases = ours * recipe["lr_1d"]
    np.testing.assert_allclose(of_biases, GOLD[f"sched_barlow/{name}/lr_biases"], rtol=1e-9)


@pytest.mark.parametrize("name", ["rn50_readme", "rn50_800ep_args", "tiny"])
def test_schedule_dino(name):
    lr, end, epochs, n, warmup = GOLD[f"sched_dino/{name}/cfg_lr_minlr_epochs_len_warmup"].tolist()
    tail = "_all" if name == "tiny" else ""
    steps = range(30) if name == "tiny" else GOLD[f"sched_dino/{name}/steps"].tolist()
    ours = [cosine_warmup(s, epochs * n, warmup * n, lr, end=end, linspace=True) for s in steps]
    np.testing.assert_allclose(ours, GOLD[f"sched_dino/{name}/lr{tail}"], rtol=1e-9)
    momentum = [cosine_warmup(s / (epochs * n), 1.0, 0, base=0.996, end=1.0) for s in steps]
    np.testing.assert_allclose(momentum, GOLD[f"sched_dino/{name}/momentum{tail}"], rtol=1e-12)


@pytest.mark.parametrize("name", ["ep100", "tiny"])
def test_schedule_swav(name):
    config = GOLD[f"sched_swav/{name}/cfg_len_warmup_epochs_base_final_start"]
    n, warmup, epochs, base = config.tolist()[:4]
    recipe = recipe_of("swav")
    assert peak_lr(recipe["learning_rate"], recipe["scaling"], 4096) == pytest.approx(base)
    start, end = recipe["start"] * base, recipe["end"] * base
    schedule = (epochs * n, warmup * n, base, start, end)
    steps = GOLD[f"sched_swav/{name}/steps"].tolist()
    ours = [cosine_warmup(s, *schedule, linspace=True) for s in steps]
    np.testing.assert_allclose(ours, GOLD[f"sched_swav/{name}/lr"], rtol=1e-9)


@pytest.mark.parametrize("name", ["ep100_bs4096", "ep1000_bs4096"])
def test_schedule_byol(name):
    config = GOLD[f"sched_byol/{name}/cfg_maxsteps_warmup_baselr_ema_bs"]
    total, warmup, base, ema, batch = config.tolist()
    steps = GOLD[f"sched_byol/{name}/steps"].tolist()
    ours = [cosine_warmup(s, total, warmup, peak_lr(base, "linear", batch)) for s in steps]
    theirs = GOLD[f"sched_byol/{name}/lr"]  # float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    momentum = [cosine_warmup(s / total, 1.0, 0, ema, end=1.0) for s in steps]
    np.testing.assert_allclose(momentum, GOLD[f"sched_byol/{name}/target_ema"], rtol=1e-9)


def test_vicreg_training_end_to_end():
    """Six steps of backbone, projector, loss, LARS and schedule as in the official code."""
    module = build_method("vicreg", nn.Linear(20, 16), 16, projector="32-32-24").double()
    prefix = "e2e_vicreg/init/"
    module.load_state_dict({k[len(prefix) :]: v for k, v in GOLD.items() if k.startswith(prefix)})
    optimizer = lars(module, "vicreg")
    for t, step in enumerate(range(0, 12, 2)):
        for group in optimizer.param_groups:
            group["lr"] = cosine_warmup(step, 12, 10, peak_lr(3.2, "linear", 16), end=0.001 * 0.2)
        loss, _, _ = module([GOLD["in/e2e/x"][t], GOLD["in/e2e/y"][t]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected = GOLD["e2e_vicreg/f64/losses"][t]
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-10, atol=0)
    for name, value in module.state_dict().items():
        expected = GOLD[f"e2e_vicreg/f64/final/{name}"]
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
