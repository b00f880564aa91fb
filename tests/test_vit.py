"""DINO with a vision transformer: against the official code, through the stages.

goldens/vit/official.npz is of facebookresearch/dino @ 7c446df: width 128, two heads, three blocks,
patches of 4 px, images of 16 px; and the weight decay in two epochs of five steps.
"""

import importlib
from functools import partial

import memory
import numpy as np
import operations
import pytest
import torch
from conftest import ROOT, call, refused, run, sentence, write_images
from evaluation_study import result
from test_memory import count

from evaluate import features, linear
from models import vit
from models.dino import PUBLISHED
from models.lars import build_optimizer, set_rates
from models.registry import METHODS, build_method, recipe_of
from models.resnet import build_backbone, checkpoint_stages, load_backbone, random_like

OFFICIAL = np.load(ROOT / "tests/goldens/vit/official.npz")
GOLD = {name: torch.from_numpy(value) for name, value in OFFICIAL.items()}
TRAIN = (
    "--backbone vit_tiny_patch8 --size 32 --store-size 32 --local-size 16 --local-crops 2 "
    "--batch-size 8 --projector 16-16-8-24 --warmup-epochs 0 --log-every 1 --workers 0 "
    "--method dino --epochs 2 --checkpoint-minutes 0"
).split()


def official_state():
    shapes = {"cls_token": (1, 1, 128), "pos_embed": (1, 17, 128)}
    layers = {"patch_embed.proj": (128, 3, 4, 4), "norm": (128,)}
    for number in range(3):
        block = f"blocks.{number}."
        layers |= {f"{block}attn.qkv": (384, 128), f"{block}attn.proj": (128, 128)}
        layers |= {f"{block}mlp.fc1": (512, 128), f"{block}mlp.fc2": (128, 512)}
        layers |= {f"{block}norm1": (128,), f"{block}norm2": (128,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    rng = np.random.default_rng(0)
    return {name: torch.from_numpy(rng.normal(0, 0.2, shapes[name])) for name in sorted(shapes)}


def test_the_official_network(tmp_path):
    """Outputs and gradients at the size of the table of positions, below it and above it."""
    state = official_state()
    torch.save(state, tmp_path / "official.pth")
    network, width, info = load_backbone(tmp_path / "official.pth")
    assert width == 128 and info["architecture"].endswith("3 blocks, width 128, patch 4")
    network = network.double()
    for name, value in network.state_dict().items():
        theirs = [key for key in state if vit.torchvision_name(key) == name]
        value.copy_(state[theirs[0]])  # what was read is float32
    rng = np.random.default_rng(1)
    for size in (16, 8, 24):
        images = torch.from_numpy(rng.normal(size=(2, 3, size, size))).requires_grad_()
        network.blocks = 2
        found = {f"last{size}": network(images)}
        network.blocks = 1
        found[f"cls{size}"] = features = network(images)
        network.zero_grad()
        features[:, :7].square().sum().backward()
        found[f"image_gradient{size}"] = images.grad[:, :, :2, :2]
        found[f"position_gradient{size}"] = network.encoder.pos_embedding.grad[0, :, :4]
        for name, value in found.items():
            torch.testing.assert_close(value.detach(), GOLD[name], rtol=1e-9, atol=1e-12, msg=name)


def dino_names(weights):
    state = {
        "cls_token": weights["embeddings.cls_token"],
        "pos_embed": weights["embeddings.position_embeddings"],
        "patch_embed.proj.weight": weights["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": weights["embeddings.patch_embeddings.projection.bias"],
    }
    same = {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    same |= {"layernorm_before": "norm1", "layernorm_after": "norm2"}
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = weights[f"layernorm.{kind}"]
        for number in range(12):
            layer, block = f"layers.{number}", f"blocks.{number}"
            joined = [weights[f"{layer}.attention.{one}_proj.{kind}"] for one in "qkv"]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat(joined)
            for name, dino in same.items():
                state[f"{block}.{dino}.{kind}"] = weights[f"{layer}.{name}.{kind}"]
    return state


def test_small_against_transformers(tmp_path):
    """ViT-S/16 with the weights of transformers' ViTModel, in a file like DINO's checkpoint."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    config = ViTConfig(**sizes, layer_norm_eps=1e-6)
    other = ViTModel(config, add_pooling_layer=False).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = dino_names(other.state_dict())
    content = {"teacher": {f"backbone.{name}": value for name, value in state.items()}}
    content["teacher"]["head.mlp.0.weight"] = torch.zeros(3)
    content["student"] = {f"module.backbone.{name}": 0 * value for name, value in state.items()}
    torch.save(content, tmp_path / "dino.pth")
    network, width, info = load_backbone(tmp_path / "dino.pth")
    assert (width, info["architecture"]) == (384, "vit_small_patch16")
    assert info["left_out"] == {"head": 1, "student": len(state)}
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = other(images).last_hidden_state
        (tokens,) = network.last_tokens(images, 1)
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
        assert torch.equal(network(images), tokens[:, 0])


def test_initial_weights_and_torchvisions():
    """Normal numbers with sd 0.02, cut off at 2; no biases; the convolution as PyTorch makes it."""
    torch.manual_seed(0)
    network, width = build_backbone("vit_tiny_patch16")
    assert width == 192
    for name, value in network.state_dict().items():
        if name.startswith("conv_proj"):
            assert value.abs().max() <= 1 / (3 * 16 * 16) ** 0.5
        elif value.ndim == 1:
            assert value.unique().tolist() == [float("ln" in name and name.endswith("weight"))]
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.2), name
    from torchvision.models import VisionTransformer

    network = vit.VisionTransformer(128, 2, patch=4, side=4).eval()
    other = VisionTransformer(16, 4, 2, 2, 128, 512).eval()
    other.heads = torch.nn.Identity()
    other.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(images), other(images))
    network = vit.VisionTransformer(128, 2, patch=4, side=4)
    network.blocks = 2
    other = random_like(network)
    assert other.blocks == 2 and not torch.equal(other.class_token, network.class_token)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert shapes == {name: value.shape for name, value in other.state_dict().items()}


def test_weight_decay_and_drop_path():
    recipe = recipe_of("dino", "vit_tiny_patch16")
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    optimizer = build_optimizer(module, recipe)
    assert isinstance(optimizer, torch.optim.AdamW)
    for step, expected in enumerate(GOLD["weight_decay"].tolist()):
        set_rates(optimizer, recipe, peak=0.001, step=step, total=10, warmup=5)
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == [pytest.approx(expected, rel=1e-12), 0.0]
        if step < 5:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001 * step / 4)
    assert recipe_of("dino", "resnet50") == PUBLISHED
    # The rates are the official ones, both branches are left out, the teacher leaves out none.
    network = vit.VisionTransformer(128, 3, patch=4, side=4, drop_path=0.1)
    rates = [block.dropout.p for block in network.encoder.layers]
    torch.testing.assert_close(torch.tensor(rates).double(), GOLD["drop_path"], rtol=1e-6, atol=0)
    method = build_method("dino", network, 128, projector="16-16-8-24")
    assert {block.dropout.p for block in method.teacher[0].encoder.layers} == {0.0}
    assert {block.mlp[-1].p for block in method.teacher[0].encoder.layers} == {0.0}
    network = vit.VisionTransformer(128, 2, patch=4, side=4, drop_path=1.0)
    before, after = network.last_tokens(torch.randn(5, 3, 16, 16), 2)
    torch.testing.assert_close(before, after)
    network.eval()
    before, after = network.last_tokens(torch.randn(5, 3, 16, 16), 2)
    assert (before - after).abs().max() > 1e-3


@pytest.fixture(scope="module")
def vit_study(tmp_path_factory):
    root = tmp_path_factory.mktemp("vit")
    write_images(root / "data/train")
    write_images(root / "data/val", each=4, seed=1)
    run("03_pretrain.py", "--data", root / "data/train", "--out", root / "run", *TRAIN)
    return root


def gradients(method, grad_checkpoint=False):
    torch.manual_seed(1)
    network = vit.VisionTransformer(128, 3, patch=4, side=4, drop_path=0.5)
    model = build_method(method, network, 128, projector="16-16-8-24")
    if grad_checkpoint:
        checkpoint_stages(network)
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 4, 3, 16, 16, generator=generator).unbind()
    local = torch.randn(2, 4, 3, 8, 8, generator=generator).unbind()
    model(views, local, epoch=1.0)[0].backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_all_gradients(method):
    """DistributedDataParallel wants them. Recomputing leaves out the same branches."""
    plain = gradients(method)
    assert all(value is not None and value.isfinite().all() for value in plain.values())
    for name, value in gradients(method, grad_checkpoint=True).items():
        torch.testing.assert_close(value, plain[name])


def test_memory_and_operations():
    """Less memory with --grad-checkpoint; ViT-S/16 has 4.6 billion multiply-adds (DeiT's table)."""
    assert operations.resnet("vit_small_patch16", 224) == pytest.approx(2 * 4.6e9, rel=0.01)
    build_network = partial(vit.VisionTransformer, 128, 4, patch=4, side=8)
    model = build_method("vicreg", build_network(), 128, projector="16-16")
    crops = [(8, 3, 32, 32)] * 2, []
    build = partial(build_optimizer, recipe=recipe_of("dino", "vit_tiny_patch4"))
    plain = memory.count_step(model, build, crops)
    less = memory.count_step(model, build, crops, grad_checkpoint=True)
    assert less["kept"] < 0.5 * plain["kept"]
    forward = operations.forward(build_network, operations.pixels(32))
    assert memory.count_flop(model, crops) == pytest.approx(16 * 3 * forward, rel=0.02)
    # The first number of the row; the other five take half a minute.
    step = count("--method dino --backbone vit_small_patch16", 200)
    row = f"| dino --backbone vit_small_patch16 | 6 | {step['peak']:.1f} / "
    assert row in (ROOT / "docs/costs.md").read_text()


def test_evaluations(vit_study, tmp_path, monkeypatch):
    """A linear layer sees the last four [CLS] tokens, kNN the last one, as in DINO's code."""
    widths = {}

    def watch(module, name):
        function = getattr(module, name)

        def watched(x, *args, **kwargs):
            widths[name] = x.shape[1]
            return function(x, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    watch(features, "knn")
    watch(linear, "fit_linear")
    flags = ["--data", vit_study / "data", "--backbone", vit_study / "run", "--workers", 0]
    few = ["--epochs", 1, "--batch-size", 8, "--knn"]
    call("04_linear_eval.py", *flags, *few, "--out", tmp_path / "linear")
    call("04_linear_eval.py", *flags, *few, "--out", tmp_path / "cached", "--cache-features")
    assert widths == {"knn": 192, "fit_linear": 4 * 192}
    published = result(tmp_path / "linear")["args"]
    assert published["learning_rate"] == 0.001 * 8 / 256 and published["size"] == 32
    both = [result(tmp_path / name)["results"]["knn_top1"] for name in ("linear", "cached")]
    assert both[0] == both[1]
    few = ["--percent", 100, "--epochs", 1, "--batch-size", 8, "--out", tmp_path / "tuned"]
    call("05_semisup_eval.py", *flags, *few)
    call("06_transfer.py", "folder", *flags, "--out", tmp_path / "folder")
    assert 0 <= result(tmp_path / "folder")["results"]["top1"]["mean"] <= 100


def test_refused(vit_study, tmp_path, capsys):
    def training(*flags):
        data = ["--data", vit_study / "data/train", "--out", tmp_path / "x"]
        return refused(capsys, "03_pretrain.py", *data, *TRAIN, *flags, code=2)

    assert "choose a multiple of 8" in training("--size", 36)
    assert "choose a multiple of 8" in training("--local-size", 4)
    assert "the names are vit_tiny_patchN" in training("--backbone", "vit_huge_patch14")
    assert "the names are vit_tiny_patchN" in training("--backbone", "vit_small")
    assert "is for ResNets" in training("--small-images")
    assert "--optimizer adamw" in training("--method", "simclr")
    assert not (tmp_path / "x").exists()
    pool = importlib.import_module("06_transfer").pool
    said = sentence(capsys, pool, vit.build("vit_tiny_patch8", 32), 2, 32)
    assert "--pool is for ResNets" in said
