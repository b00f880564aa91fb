"""--preset cifar: solo-learn's settings for CIFAR-10."""

import pytest
import torch
from conftest import run, write_images

from base.run_folder import read_log, run_arguments
from models.barlow import barlow_loss
from models.lars import build_optimizer
from models.registry import METHODS, build_method, recipe_of
from models.resnet import backbone_from_state, build_backbone, random_like
from models.simclr import simclr_loss

# solo-learn 9187ea3, scripts/pretrain/cifar/*.yaml: learning rate at batch 256, weight decay,
# lowest crop scale, blur and solarize of both views, widths of the projector
YAML = {
    "vicreg": (0.3, 1e-4, 0.2, (0, 0), (0.1, 0.1), "2048-2048-2048"),
    "barlow": (0.3, 1e-4, 0.08, (0, 0), (0, 0.2), "2048-2048-2048"),
    "byol": (1.0, 1e-5, 0.08, (0, 0), (0, 0.2), "4096-256"),
    "simclr": (0.4, 1e-4, 0.08, (0, 0), (0, 0), "2048-256"),
    "dino": (0.3, 1e-6, 0.08, (0, 0), (0, 0.2), "2048-2048-256-4096"),
    "swav": (0.6, 1e-6, 0.08, (0, 0), (0, 0), "2048-128-3000"),
}


@pytest.mark.parametrize("method", METHODS)
def test_settings(method):
    recipe = recipe_of(method, "resnet18", "cifar")
    views = recipe["views"][:2]
    of_views = [tuple(view[name] for view in views) for name in ("blur", "solarize")]
    rates = recipe["learning_rate"], recipe["weight_decay"], views[0]["scale"][0]
    assert (*rates, *of_views, recipe["head"]["projector"]) == YAML[method]
    assert recipe["start"] * recipe["learning_rate"] == pytest.approx(3e-5)  # warmup_start_lr
    assert recipe.keys() == recipe_of(method).keys()
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 512))
    build_method(method, backbone, 512, **recipe["head"])


def test_clipped_ratio():
    """Three steps by the rule as apex states it, one parameter after the other."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    with torch.no_grad():
        model[1].weight.mul_(1e-3)  # a ratio below 1; the other one is clipped
    recipe = recipe_of("simclr", preset="cifar")
    optimizer = build_optimizer(model, recipe)
    expected = [p.detach().clone() for p in model.parameters()]
    momenta = [torch.zeros_like(p) for p in expected]
    clipped = set()
    for step in range(3):
        lr = [0.0, 0.2, 0.4][step]
        for group in optimizer.param_groups:
            group["lr"] = lr
        model.zero_grad()
        x = torch.randn(8, 6, generator=torch.manual_seed(step))
        (1e-2 * model(x).square().sum()).backward()
        pairs = zip(model.parameters(), momenta, strict=True)
        for number, (parameter, momentum) in enumerate(pairs):
            w, gradient = expected[number], parameter.grad
            update = gradient
            if w.ndim > 1:
                decay = recipe["weight_decay"]
                ratio = 0.02 * w.norm() / (gradient.norm() + decay * w.norm() + 1e-8)
                clipped.add(bool(ratio >= lr))
                share = min(ratio / lr, 1) if lr else 1
                update = share * (gradient + decay * w)
            momentum.mul_(0.9).add_(update)
            expected[number] = w - lr * momentum
        optimizer.step()
    assert clipped == {True, False}
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.data, value, rtol=1e-5, atol=1e-8)


def test_scaled_losses():
    x, y = torch.randn(2, 16, 8, generator=torch.manual_seed(0))
    torch.testing.assert_close(barlow_loss(x, y, scale=0.1)[0], 0.1 * barlow_loss(x, y)[0])
    # NT-Xent as solo-learn has it (solo/losses/simclr.py): the mean over all 2n rows.
    head = recipe_of("simclr", preset="cifar")["head"]
    x, y = torch.randn(2, 7, 5, generator=torch.manual_seed(0), dtype=torch.float64)
    z = torch.nn.functional.normalize(torch.cat([x, y]), dim=1)
    similar = torch.exp(z @ z.T / 0.2)
    losses = []
    for row in range(14):
        others = similar[row].sum() - similar[row, row]
        losses.append(-torch.log(similar[row, (row + 7) % 14] / others))
    loss, _ = simclr_loss(x, y, temperature=head["temperature"], scale=head["scale"])
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name, side", [("resnet18", 34), ("resnet50", 34), ("resnet10", 16)])
def test_stem(name, side):
    """A stem that pads by 2 is in the weights; without a word of it, it pads by 1."""
    recipe = recipe_of("simclr", name, "cifar")
    images = torch.zeros(1, 3, 32, 32)
    network = build_backbone(name, recipe["stem_padding"])[0]
    assert network.conv1(images).shape[-1] == side
    state = network.state_dict()
    for twin in (backbone_from_state(state, "x"), random_like(network)):
        assert twin.conv1(images).shape[-1] == side
        assert twin.architecture() == name
    state.pop("conv1.stem_padding", None)
    assert backbone_from_state(state, "x").conv1(images).shape[-1] == min(side, 32)


def test_flags_win_over_the_preset(tmp_path):
    write_images(tmp_path / "data", ["a"])
    small = "--backbone resnet10 --batch-size 4 --epochs 2 --projector 16-16 --warmup-epochs 0"
    command = ["03_pretrain.py", "--data", tmp_path / "data", "--out", tmp_path / "run"]
    flags = ["--method", "simclr", "--preset", "cifar", *small.split(), "--workers", 0]
    run(*command, *flags)
    args = run_arguments(tmp_path / "run")
    assert (args["backbone"], args["batch_size"], args["epochs"]) == ("resnet10", 4, 2)
    assert (args["size"], args["small_images"], args["learning_rate"]) == (32, True, 0.4)
    assert args["optimizer"] == "larc" and args["mean"] == [0.4914, 0.4822, 0.4465]
    assert read_log(tmp_path / "run", "step")[-1]["step"] == 4
