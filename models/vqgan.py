"""The tokenizer: a VQGAN (Esser et al. 2021, arXiv:2012.09841) in the topology of MaskGIT's official code.

Images are float (B, 3, H, W) in [0, 1]; token ids are (B, H/f * W/f), row by row. One class, two uses:
the published ImageNet-256 tokenizer and the ones that `00_train_generator.py vqgan` trains.
What differs from the usual VQGAN: no attention, average pooling, and a shortcut convolution that is
applied to the *output* of a residual block instead of its input.
"""

import torch
import torch.nn.functional as F
from torch import nn

PUBLISHED = {
    "filters": 128,
    "multipliers": [1, 1, 2, 2, 4],
    "blocks": 2,
    "codes": 1024,
    "dim": 256,
    "groups": 32,
    "unshuffle": 1,
}


class ResBlock(nn.Module):
    def __init__(self, wide_in, wide_out, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, wide_in, eps=1e-6)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, wide_out, eps=1e-6)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False)
        if wide_in != wide_out:
            self.shortcut = nn.Conv2d(wide_out, wide_out, 1, bias=False)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.shortcut(h) if hasattr(self, "shortcut") else x)


class Encoder(nn.Module):
    def __init__(self, filters, multipliers, blocks, dim, groups, unshuffle):
        super().__init__()
        self.per_level, self.unshuffle = blocks, unshuffle
        self.stem = nn.Conv2d(3 * unshuffle**2, filters, 3, padding=1, bias=False)
        widths = [filters] + [filters * m for m in multipliers for _ in range(blocks)]
        widths += [widths[-1]] * blocks
        self.blocks = nn.ModuleList(
            ResBlock(a, b, groups) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, x):
        x = self.stem(F.pixel_unshuffle(x, self.unshuffle))
        last_pool = (
            len(self.blocks) - 2 * self.per_level
        )  # no pooling after the last level and the middle blocks
        for i, block in enumerate(self.blocks):
            if i and i % self.per_level == 0 and i <= last_pool:
                x = F.avg_pool2d(x, 2)
            x = block(x)
        return self.out(F.silu(self.norm(x)))


class Decoder(nn.Module):
    def __init__(self, filters, multipliers, blocks, dim, groups, unshuffle):
        super().__init__()
        self.per_level, self.unshuffle = blocks, unshuffle
        levels = [filters * m for m in reversed(multipliers)]
        widths = [levels[0]] * (blocks + 1) + [w for w in levels for _ in range(blocks)]
        self.stem = nn.Conv2d(dim, levels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResBlock(a, b, groups) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.ups = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in levels[:-1])
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.out = nn.Conv2d(widths[-1], 3 * unshuffle**2, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            level = (
                i // self.per_level - 2
            )  # the middle blocks and the coarsest level have no upsampling before
            if level >= 0 and i % self.per_level == 0:
                x = self.ups[level](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = block(x)
        return F.pixel_shuffle(self.out(F.silu(self.norm(x))), self.unshuffle)


class VQGAN(nn.Module):
    """filters: base width; multipliers: of the width, one a level, finest first (n levels shrink 2^(n-1));
    blocks: residual blocks a level; codes, dim: the codebook; groups: of GroupNorm (official 32);
    unshuffle: 1 is the official stem, 2 folds 2x2 pixels into channels first (4 times cheaper)."""

    def __init__(self, filters, multipliers, blocks, codes, dim, groups=32, unshuffle=1):
        super().__init__()
        self.config = {
            "filters": filters,
            "multipliers": list(multipliers),
            "blocks": blocks,
            "codes": codes,
            "dim": dim,
            "groups": groups,
            "unshuffle": unshuffle,
        }
        self.patch = unshuffle * 2 ** (len(multipliers) - 1)  # pixels a token covers, each way
        self.encoder = Encoder(filters, multipliers, blocks, dim, groups, unshuffle)
        self.decoder = Decoder(filters, multipliers, blocks, dim, groups, unshuffle)
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def nearest(self, features):
        """(N, dim) -> (N,) ids of the nearest codes: squared Euclidean distance in float32, first minimum."""
        a, b = features.float(), self.codebook.float()
        with torch.autocast(a.device.type, enabled=False):
            return (a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)).argmin(1)

    def encode(self, images):
        """(B, 3, H, W) in [0, 1] -> (B, tokens) ids."""
        features = self.encoder(images)
        return self.nearest(features.permute(0, 2, 3, 1).flatten(0, 2)).view(len(images), -1)

    def decode(self, ids):
        """(B, tokens) ids in [0, codes), a square grid -> (B, 3, H, W), linear: nothing clips it to [0, 1]."""
        side = round(ids.shape[1] ** 0.5)
        grid = self.codebook[ids].view(len(ids), side, side, -1).permute(0, 3, 1, 2)
        return self.decoder(
            grid.contiguous()
        )  # values of a code stand side by side otherwise: slow convolutions

    def forward(self, images):
        """Training: images -> (reconstruction, features (N, dim), ids (N,)); the gradient passes the
        quantisation straight through."""
        features = self.encoder(images)
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        ids = self.nearest(flat)
        b, _, h, w = features.shape
        quantised = self.codebook[ids].view(b, h, w, -1).permute(0, 3, 1, 2)
        return self.decoder(features + (quantised - features).detach()), flat, ids


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit for each patch of the image. GroupNorm in
    place of BatchNorm, so that real and generated batches and the processes do not see each other."""

    def __init__(self, width=64, layers=3):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        stack = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            stack += [
                nn.Conv2d(a, b, 4, stride=2 if i < layers - 1 else 1, padding=1, bias=False),
                nn.GroupNorm(min(32, b // 2), b),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images):
        return self.layers(images)
