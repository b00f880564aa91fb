"""Backbones under torchvision's names: built, or read from weight files of any origin.

ResNets (He et al. 2016, 1512.03385) and the vision transformers of models/vit.py. Every backbone
maps images (N, 3, H, W) to features (N, width). A ResNet ends in global average pooling. Used
by 03 to 07, and by the strategies `noise` and `neighbour`.
"""

import argparse
import copy
import functools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from base import run, run_folder
from base.parallel import rank
from base.weights import load_strictly
from models import vit

# name: (block, blocks of each stage, channels of the first stage)
BACKBONES = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 32),  # the demo's, for 32 px images
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 64),
}

# {the parts of a network: names by which it is recognised}
LAYOUTS = {
    ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"): (
        "conv1.weight",
        "layer1.0.conv1.weight",
    ),
    ("class_token", "conv_proj", "encoder"): (
        "class_token",
        "conv_proj.weight",
        "encoder.pos_embedding",
    ),
}

NUMPY_SCALAR = np.float64(0).__reduce__()[0]  # the function that unpickles numpy's scalars
# What checkpoints hold beside tensors. torch may read these: they are plain values or inert.
HARMLESS = [
    argparse.Namespace,
    (argparse.Namespace, "__main__.exclude_bias_and_norm"),  # a function of VICReg's and Barlow's
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]


# ---------------------------------------------------------------- the network
class ResNet(TorchvisionResNet):
    """Torchvision's ResNet of any width, without `fc`.

    small_images: a 3x3 stem and no max-pooling. As a number it is the stem's padding: 1, or 2 as in
    solo-learn, for which the weights have an entry conv1.stem_padding. resnet10 keeps 1.
    """

    def __init__(self, block, layers, channels, small_images=False, zero_init_residual=False):
        self.channels = channels  # _make_layer needs it while the parent is built
        self.settings = block, tuple(layers), channels, small_images
        super().__init__(block, layers, zero_init_residual=zero_init_residual)
        kernel, stride, padding = 7, 2, 3
        if small_images:
            kernel, stride, padding = (3, 1, int(small_images)) if channels >= 64 else (3, 2, 1)
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, padding, bias=False)
        if padding == 2:
            self.conv1.register_buffer("stem_padding", torch.tensor(padding))
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(channels)
        if small_images:
            self.maxpool = nn.Identity()
        self.fc = nn.Identity()

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if stride == 1:  # the first stage
            self.inplanes = self.channels
        return super()._make_layer(block, planes * self.channels // 64, blocks, stride, dilate)

    def stages(self):
        """The parts whose inputs are kept, while all else is recomputed (--grad-checkpoint)."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def architecture(self):
        """Its name in BACKBONES, or a description."""
        block, layers, channels, _ = self.settings
        for name, settings in BACKBONES.items():
            if settings == (block, layers, channels):
                return name
        return f"ResNet of {block.__name__}s {layers}, width {channels}"


def build_backbone(name, small_images=False, zero_init_residual=False, size=224, drop_path=0.0):
    """(backbone with random weights, feature width). name: a key of BACKBONES, or one of vit.NAMES.

    small_images: for images of at most 64 px; see ResNet. zero_init_residual: the last BatchNorm of
    each residual branch starts at 0, as in VICReg and Barlow Twins. Both are for ResNets. size:
    side of the images in pixels; drop_path: stochastic depth. Both are for vision transformers.
    """
    if name.startswith("vit_"):
        if small_images:
            run.fail("--small-images is for ResNets: choose a vision transformer's patches.", 2)
        module = vit.build(name, size, drop_path)
    elif name in BACKBONES:
        module = ResNet(*BACKBONES[name], small_images, zero_init_residual)
    else:
        names = ", ".join(BACKBONES)
        run.fail(f"There is no backbone {name}: choose one of {names}, {vit.NAMES}.", 2)
    return module, module.inplanes


def random_like(module):
    """The same architecture with random weights: the baseline that shows what pretraining adds."""
    random = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.load_state_dict(type(module)(*module.settings).state_dict())
    return random


def checkpoint_stages(backbone):
    """Keep only the inputs of the backbone's stages, in place; the backward pass recomputes.

    These are a ResNet's four stages, and the blocks of a vision transformer.
    """
    for stage in backbone.stages():
        stage.forward = functools.partial(checkpoint, stage.forward, use_reentrant=False)


# ---------------------------------------------------------------- from a state dict
def backbone_from_state(state, source):
    """The backbone of a state dict with torchvision's names (no `fc`), with its weights.

    Block, depth, width, stem and patches are read off names and shapes. The padding of a 3x3 stem
    is 1 without conv1.stem_padding, also for the files of solo-learn itself. `module.inplanes` is
    the feature width. Ends the run where a name is missing or left over, a shape differs, or a
    weight is not finite. source: the file, for that sentence.
    """
    module = empty_backbone(state).to_empty(device="cpu")
    counters = {}  # files of before PyTorch 0.4.1 have none
    for name in module.state_dict():
        if name.endswith("num_batches_tracked"):
            counters[name] = torch.tensor(0)
    return load_strictly(module, counters | state, source).requires_grad_()


def empty_backbone(state):
    """The network of a state dict's names and shapes, without memory for its weights."""
    if "class_token" in state:
        with torch.device("meta"):
            return vit.empty(state)
    layers = []
    for stage in (1, 2, 3, 4):
        blocks = {key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")}
        layers.append(len(blocks))
    channels, _, kernel, _ = state["conv1.weight"].shape
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    with torch.device("meta"):
        return ResNet(block, layers, channels, (kernel == 3) + ("conv1.stem_padding" in state))


# ---------------------------------------------------------------- from a file
def tensors_in(content, path=""):
    """{name: tensor} of all tensors in a file; a name begins with the keys of the dicts around."""
    tensors = {}
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[f"{path}{key}"] = value
        elif isinstance(value, dict):
            tensors |= tensors_in(value, f"{path}{key}.")
    return tensors


def read_state(path, wanted=None):
    """(state dict with torchvision's names, {what was left out: number of tensors}) of a file.

    One rule for files of every origin: the backbone is what stands under the one prefix that has
    a whole network. Where there are several, `wanted` names one. Of DINO's two networks it is the
    teacher (its eval_linear.py's default). What stands beside it, such as a projector, is left out
    and counted.
    """
    with torch.serialization.safe_globals(HARMLESS):
        content = run.load(path)
    tensors = tensors_in(content) if isinstance(content, dict) else {}
    if any(key.endswith("cls_token") for key in tensors):
        tensors = {vit.torchvision_name(key): tensor for key, tensor in tensors.items()}
    networks = {}
    for parts, names in LAYOUTS.items():
        for key in tensors:
            prefix = key.removesuffix(names[0])
            if f".{prefix}".endswith(".") and all(prefix + name in tensors for name in names):
                networks[prefix] = parts
    if not networks:
        run.fail(
            f"{path} holds no state dict of a backbone: no conv1.weight beside layer1 (ResNets), "
            "no class_token or cls_token (vision transformers). Its names are "
            f"{', '.join(list(tensors)[:5])}, ..."
        )
    chosen = choose_prefix(path, list(networks), wanted)

    around = chosen[:-1].rpartition(".")[0] + "."  # module. of module.backbone.
    state, left_out = {}, Counter()
    for key, tensor in tensors.items():
        name = key.removeprefix(chosen)
        if key.startswith(chosen) and name.partition(".")[0] in networks[chosen]:
            state[name] = tensor
        else:
            beside = name.removeprefix(around)  # module.projector.0.weight is named "projector"
            left_out[beside.partition(".")[0]] += 1
    return state, dict(left_out)


def choose_prefix(path, prefixes, wanted):
    """The prefix of the backbone to read, of those in the file.

    wanted: a whole prefix or its end, such as encoder_q for state_dict.module.encoder_q.
    """
    if wanted:
        wanted = wanted.strip(".")
        candidates = [prefix for prefix in prefixes if f".{prefix}".endswith(f".{wanted}.")]
    else:
        candidates = [prefix for prefix in prefixes if prefix.startswith("teacher.")] or prefixes
    if len(candidates) != 1:
        run.fail(
            f"{path} holds {len(prefixes)} networks, and {len(candidates)} of them fit: write "
            f"{path}:NAME, where NAME can be {', '.join(prefixes)}.",
            2,
        )
    return candidates[0]


def load_backbone(source, name="resnet50", small_images=False, seed=0):
    """(backbone in evaluation mode, feature width, info) of a run folder, a file, or "random".

    Files: ours, torchvision's, releases and checkpoints of VICReg, Barlow Twins, DINO, SwAV, MoCo,
    solo-learn, lightly and others (see `read_state`). FILE:NAME is one of several networks of a
    file, such as moco.pth:encoder_q. `name`, `small_images` and `seed` are those of a random
    network; a file's are read off it. info: "source", "architecture", "sha256", "left_out" and
    "args", the arguments of the pretraining run ({} for other files), whose normalisation of the
    pixels the module keeps. A line on process 0 says what was loaded.
    """
    info = {"source": str(source), "sha256": None, "left_out": {}, "args": {}}
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, _ = build_backbone(name, small_images)
        info["architecture"] = name
        loaded = f"random weights (seed {seed}), nothing loaded"
    else:
        file, _, wanted = str(source).rpartition(":")
        if not file or os.path.exists(source):
            file, wanted = source, None
        path = Path(file)
        if path.is_dir():
            path = path / "backbone.pth"
        if not path.is_file():
            run.fail(f"{source}: no {path}: finish the pretraining, or give a weight file.", 2)
        state, info["left_out"] = read_state(path, wanted)
        module = backbone_from_state(state, path)
        info["architecture"] = module.architecture()
        info["sha256"] = run.file_hash(path)
        if path.name == "backbone.pth":
            info["args"] = run_folder.run_arguments(path.parent)
        if "mean" in info["args"]:
            module.normalisation = (info["args"]["mean"], info["args"]["std"])
        loaded = f"{len(state)} tensors of {path}; left out: {info['left_out'] or 'nothing'}"
    width = module.inplanes
    if rank() == 0:
        print(f"backbone: {info['architecture']}, {width} features: {loaded}")
    return module.eval(), width, info
