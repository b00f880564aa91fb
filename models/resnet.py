"""ResNet backbones under torchvision's key names: building them, and reading them from files of any origin.

He et al. 2016 (1512.03385). Every backbone ends in global average pooling: images (N, 3, H, W) -> (N, width).
"""

import argparse
import re
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from models.old_run import fail, file_hash, load, rank, read_json

BACKBONES = {  # name: (block, blocks per stage, channels of the first stage, width inside a bottleneck)
    "resnet10": (BasicBlock, (1, 1, 1, 1), 32, 64),  # the demo's, for 32 px images
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 64, 64),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 64, 128),
}
PREFIXES = (
    "",
    "module.",
    "backbone.",
    "module.backbone.",
)  # as DistributedDataParallel and releases add
NESTED = (
    "teacher",
    "model",
    "state_dict",
    "student",
)  # of DINO's two networks the teacher is evaluated
HEADS = re.compile(
    r"(module\.)?(fc|head|projector|projection_head|predictor|prototypes|classifier|bn)(\.|$)"
)


class ResNet(TorchvisionResNet):
    """Torchvision's ResNet of any width, without `fc`; small_images: a 3x3 stem and no max-pooling."""

    def __init__(
        self, block, layers, channels=64, inner=64, small_images=False, zero_init_residual=False
    ):
        self.channels = channels  # _make_layer needs it while the parent is built
        super().__init__(
            block, layers, width_per_group=inner, zero_init_residual=zero_init_residual
        )
        kernel, stride = (3, 1 if channels >= 64 else 2) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(channels)
        if small_images:
            self.maxpool = nn.Identity()
        self.fc = nn.Identity()

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if stride == 1:  # the first stage
            self.inplanes = self.channels
        return super()._make_layer(block, planes * self.channels // 64, blocks, stride, dilate)


def build_backbone(name, small_images=False, zero_init_residual=False):
    """(backbone with random weights, feature width). name: a key of BACKBONES; small_images: for <= 64 px.

    zero_init_residual: the last BatchNorm of each residual branch starts at 0 (VICReg, Barlow Twins)."""
    if name not in BACKBONES:
        fail(f"There is no backbone {name}: choose one of {', '.join(BACKBONES)}.", 2)
    module = ResNet(
        *BACKBONES[name], small_images=small_images, zero_init_residual=zero_init_residual
    )
    return module, module.inplanes


def backbone_from_state(state, source="the weight file"):
    """The backbone that a state dict with torchvision's keys (no `fc`) belongs to, with its weights; strict.

    Block, depth, widths and stem are read off names and shapes; `module.inplanes` is the feature width."""
    needed = [f"layer{stage}.0.conv1.weight" for stage in (1, 2, 3, 4)]
    missing = [key for key in ("conv1.weight", *needed) if key not in state]
    if missing:
        fail(f"{source} is not a ResNet with torchvision's names: it lacks {', '.join(missing)}.")
    blocks = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")})
        for i in (1, 2, 3, 4)
    ]
    channels, _, kernel, _ = state["conv1.weight"].shape
    wide, inner = "layer1.0.conv3.weight" in state, 64
    if wide:
        inner = (
            64
            * state["layer1.0.conv1.weight"].shape[0]
            // (state["layer1.0.conv3.weight"].shape[0] // 4)
        )
    with torch.device("meta"):
        module = ResNet(
            Bottleneck if wide else BasicBlock, blocks, channels, inner, small_images=kernel == 3
        )
    expected = module.state_dict()
    counters = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    state = counters | dict(state)  # files of before PyTorch 0.4.1 have no counters
    wrong = sorted({*expected} ^ {*state}) or [
        k for k in expected if expected[k].shape != state[k].shape
    ]
    if wrong:
        fail(
            f"{source} is not a ResNet this code knows: {len(wrong)} names or shapes differ, such as "
            f"{', '.join(wrong[:8])}."
        )
    module.load_state_dict(state, strict=True, assign=True)
    return module.float()


def random_like(module, seed=0):
    """The same architecture with random weights: the baseline that shows what pretraining adds."""
    block, layers, channels, inner = spec_of(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(
            block, layers, channels, inner, small_images=module.conv1.kernel_size == (3, 3)
        )


def spec_of(module):
    """Block, blocks per stage, channels and inner width, as in BACKBONES."""
    layers = tuple(len(getattr(module, f"layer{stage}")) for stage in (1, 2, 3, 4))
    return type(module.layer1[0]), layers, module.channels, module.base_width


def architecture(module):
    """Its name in BACKBONES, or a description."""
    block, layers, channels, inner = spec = spec_of(module)
    names = [name for name, known in BACKBONES.items() if known == spec]
    return (
        names[0]
        if names
        else f"ResNet of {block.__name__}s {layers}, width {channels}, inner {inner}"
    )


def read_state(path):
    """(state dict with torchvision's keys, what was left out: {head: number of tensors}) of a weight file."""
    inert = (
        argparse.Namespace
    )  # stands for what training checkpoints hold besides tensors; nothing is run
    with torch.serialization.safe_globals([inert, (inert, "__main__.exclude_bias_and_norm")]):
        state = load(path)
    if isinstance(state, dict):
        state = next((state[key] for key in NESTED if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        fail(
            f"{path} holds no state dict of a network, neither itself nor under {', '.join(NESTED)}."
        )
    prefix = next((p for p in PREFIXES if f"{p}conv1.weight" in state), None)
    if prefix is None:
        fail(
            f"{path} is not a ResNet with torchvision's names: there is no conv1.weight, nor one after "
            f"{', '.join(PREFIXES[1:])}; its names are {', '.join(list(state)[:5])}, ..."
        )
    heads = [key for key in state if HEADS.match(key.removeprefix(prefix))]
    foreign = [key for key in state if key not in heads and not key.startswith(prefix)]
    if foreign:
        fail(
            f"{path} holds tensors neither of a backbone nor of a known head: {', '.join(foreign[:8])}."
        )
    left_out = Counter(HEADS.match(key.removeprefix(prefix))[2] for key in heads)
    return {key.removeprefix(prefix): state[key] for key in state if key not in heads}, dict(
        left_out
    )


def load_backbone(source, name="resnet50", small_images=False, seed=0):
    """(backbone in evaluation mode, feature width, info) of a run folder, a weight file, or "random".

    Files: ours, torchvision's, releases and checkpoints of VICReg, Barlow Twins, DINO, SwAV. `name`,
    `small_images` and `seed` are those of a random network; a file's are read off it. info: "architecture",
    "sha256", "left_out" and "args", the arguments of the pretraining run ({} for other files). A line on
    process 0 says what was loaded."""
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, width = build_backbone(name, small_images)
        info = dict(source="random", architecture=name, sha256=None, left_out={}, args={})
        loaded = f"random weights (seed {seed}), nothing loaded"
    else:
        path = Path(source)
        path = path / "backbone.pth" if path.is_dir() else path
        if not path.is_file():
            fail(
                f"--backbone {source}: no {path}: finish the pretraining, or give a weight file.", 2
            )
        state, left_out = read_state(path)
        module = backbone_from_state(state, path)
        width, about = module.inplanes, path.parent / "args.json"
        args = read_json(about) if path.name == "backbone.pth" and about.exists() else {}
        info = dict(
            source=str(source),
            architecture=architecture(module),
            sha256=file_hash(path),
            left_out=left_out,
            args=args,
        )
        heads = ", ".join(f"{key} ({n} tensors)" for key, n in left_out.items())
        loaded = f"{len(state)} tensors of {path}; left out: {heads or 'nothing'}"
    if rank() == 0:
        print(f"backbone: {info['architecture']}, {width} features: {loaded}")
    return module.eval(), width, info
