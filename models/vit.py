"""Vision transformers as DINO trains them: torchvision's, for images of any size.

Dosovitskiy et al. 2021 (2010.11929). What differs from torchvision's network (initial weights,
interpolated positions, stochastic depth) is that of facebookresearch/dino 7c446df. Used by 03,
04 and models/resnet.py.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from torchvision.ops import StochasticDepth

from base import run

LINEAR_BLOCKS = 4  # a linear evaluation sees as many [CLS] tokens: eval_linear.py:256
LINEAR_RATE = 0.001  # its learning rate at batch 256: eval_linear.py:266
SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12)}  # width, blocks
HEAD = 64  # width of an attention head: vision_transformer.py:236-254
NAMES = "vit_tiny_patchN, vit_small_patchN or vit_base_patchN, with patches of N x N pixels"

# {a part of a name in the files of DINO, timm and others: torchvision's}, replaced in this order
TO_TORCHVISION = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "blocks.": "encoder.layers.encoder_layer_",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "norm.": "encoder.ln.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj": "self_attention.out_proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}


# ---------------------------------------------------------------- the network
class VisionTransformer(TorchvisionViT):
    """Torchvision's, without `heads`: images (N, 3, H, W) -> the [CLS] token (N, width).

    patch: side of a patch in pixels. side: patches along a side of the images that have a position
    in the table each. drop_path: the probability with which the last block's two branches are left
    out for an image in training; those of the blocks before it rise from 0 to it. What is left out
    is drawn from torch's generator: 03_pretrain.py seeds it by the step and the process.
    """

    blocks = 1  # the last blocks whose [CLS] tokens are the output, side by side, the last one last

    def __init__(self, width, layers, patch, side, drop_path=0.0):
        super().__init__(side * patch, patch, layers, width // HEAD, width, 4 * width)
        self.settings = width, layers, patch, side
        self.inplanes = width  # the number of features is called so in a ResNet
        self.heads = nn.Identity()
        self.initialise()
        for number, block in enumerate(self.encoder.layers):
            rate = drop_path * number / max(layers - 1, 1)
            block.dropout = StochasticDepth(rate, "row")
            block.mlp.append(StochasticDepth(rate, "row"))

    def initialise(self):
        """DINO's initial weights (vision_transformer.py:160-172)."""
        for name, value in self.named_parameters():
            if value.ndim > 1:
                nn.init.trunc_normal_(value, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(value)
        self.conv_proj.reset_parameters()

    def stages(self):
        """The parts whose inputs are kept, while all else is recomputed (--grad-checkpoint)."""
        return list(self.encoder.layers)

    def architecture(self):
        """Its name, or a description."""
        width, layers, patch, _ = self.settings
        for name, size in SIZES.items():
            if size == (width, layers):
                return f"vit_{name}_patch{patch}"
        return f"vision transformer of {layers} blocks, width {width}, patch {patch}"

    def forward(self, x):
        return torch.cat([tokens[:, 0] for tokens in self.last_tokens(x, self.blocks)], 1)

    def last_tokens(self, x, n):
        """[the normalised tokens (N, 1 + patches, width) after each of the last n blocks].

        The first token is [CLS]. Pixels that fill no patch, at the right and below, are not seen.
        """
        x = self.conv_proj(x)
        positions = self.positions(*x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + positions
        last = []
        for number, block in enumerate(self.encoder.layers, 1):
            x = block(x)
            if number > len(self.encoder.layers) - n:
                last.append(self.encoder.ln(x))
        return last

    def positions(self, rows, columns):
        """The table of positions for rows x columns patches, (1, 1 + rows * columns, width).

        For another size than its own it is interpolated. The scale is that of 0.1 patches more, as
        DINO's networks were trained (vision_transformer.py:174-194).
        """
        table = self.encoder.pos_embedding
        side = math.isqrt(table.shape[1] - 1)
        if (rows, columns) == (side, side):
            return table
        grid = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)


# ---------------------------------------------------------------- by name, or from a state dict
def parse(name):
    """(width, blocks, side of a patch) of a name such as vit_small_patch16."""
    match = re.fullmatch(r"vit_(tiny|small|base)_patch([1-9]\d{0,2})", name)
    if not match:
        run.fail(f"There is no vision transformer {name}: the names are {NAMES}.", 2)
    return *SIZES[match[1]], int(match[2])


def check_crop(name, size):
    """End the run if a crop of this side, in pixels, is not made of whole patches."""
    *_, patch = parse(name)
    if size % patch:
        run.fail(
            f"{name}: a crop of {size} px is not made of whole patches; choose a multiple of "
            f"{patch}.",
            2,
        )


def build(name, size=224, drop_path=0.0):
    """The network of a name such as vit_small_patch16, with a position for each patch of `size`."""
    width, layers, patch = parse(name)
    check_crop(name, size)
    return VisionTransformer(width, layers, patch, size // patch, drop_path)


def empty(state):
    """The network of a state dict's shapes; its weights are not those of the state dict."""
    width, _, patch, _ = state["conv_proj.weight"].shape
    if width % HEAD:
        run.fail(f"A vision transformer of width {width} is not known: heads are {HEAD} wide.")
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layers.")}
    side = math.isqrt(state["encoder.pos_embedding"].shape[1] - 1)
    return VisionTransformer(width, len(layers), patch, side)


def torchvision_name(key):
    """The name in torchvision's network of a weight that DINO calls `key`."""
    for theirs, ours in TO_TORCHVISION.items():
        key = key.replace(theirs, ours)
    return key
