"""The memory of a training step, counted exactly."""

import importlib
from functools import partial

import memory
import pytest
import torch

from models.registry import METHODS

pretrain = importlib.import_module("03_pretrain")


def training(*words):
    """(complete arguments, the method's module, build_optimizer) of a command of stage 03."""
    args = pretrain.arguments(["--data", "D", "--out", "O", *words])
    recipe = pretrain.complete(args)
    model = pretrain.build_model(args, recipe, normalisation=None)
    return args, model, partial(pretrain.build_optimizer, recipe=recipe)


def count(words, images, **options):
    args, model, build_optimizer = training(*words.split())
    return memory.count_step(model, build_optimizer, memory.crop_shapes(args, images), **options)


def test_a_training_step_of_known_size():
    """ResNet-50, 224 px, 200 pairs in bf16: 16.7 GiB kept, 18.9 GiB in all."""
    step = count("", 200)
    assert step["kept"] == pytest.approx(16.68, abs=0.05)
    assert step["peak"] == pytest.approx(18.86, abs=0.05)
    less = count("", 200, grad_checkpoint=True)
    assert less["peak"] == pytest.approx(8.3, abs=0.1)
    # Whether the queue is full is a value, which tensors without data do not have.
    assert count(f"{SMALL} --method swav --queue 16 --queue-start 0", 8)["peak"] > 0


SMALL = "--backbone resnet10 --small-images --size 32 --batch-size 8 --local-size 16"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_more_images_need_more(method):
    words = f"{SMALL} --method {method} --local-crops 2"
    small = count(words, 8)
    large = count(words, 16)
    assert 0 < small["state"] < small["peak"] < large["peak"]
    assert small["kept"] < large["kept"]


def test_the_model_is_left_alone_and_held_is_what_is_alive():
    args, model, build_optimizer = training(*SMALL.split())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory.count_step(model, build_optimizer, memory.crop_shapes(args, 8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with memory.Held() as held:
        a = torch.empty(1000)
        b = a[:10]  # shares the storage
        assert held.now == 4000
        del a
        assert held.now == 4000
        del b
        assert held.now == 0
    assert held.most == 4000
