"""The tokenizer: a VQGAN (Esser et al. 2021, arXiv:2012.09841), in the topology of MaskGIT's code.

It writes an image as a grid of discrete tokens and reads it back. Images are float (B, 3, H, W) in
[0, 1]; token ids are (B, tokens), the grid row by row. One class serves the published ImageNet
tokenizer and those that `00_train_generator.py vqgan` trains. Used by 00 and by in- and
out-painting.

`vqgan` trains it with the L1 distance and the losses at the end: VGG-16 features, a discriminator.

What differs from the usual VQGAN: there is no attention, the pooling is an average, and the
shortcut convolution of a residual block is applied to the block's *output* instead of its input.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from base import parallel, run
from base.weights import load_strictly

PUBLISHED = {
    "filters": 128,
    "multipliers": [1, 1, 2, 2, 4],
    "blocks": 2,
    "codes": 1024,
    "dim": 256,
    "groups": 32,
    "unshuffle": 1,
    "convolutions": True,
    "patches": False,
}


class ResBlock(nn.Module):
    def __init__(self, width_in, width_out, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps=1e-6)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, width_out, eps=1e-6)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.shortcut = None
        if width_in != width_out:
            self.shortcut = nn.Conv2d(width_out, width_out, 1, bias=False)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.shortcut is not None:
            return h + self.shortcut(h)  # of h, not of x: as in the official code
        return h + x


def residual_blocks(widths, groups):
    """One block from each width to the next."""
    return nn.ModuleList(ResBlock(a, b, groups) for a, b in itertools.pairwise(widths))


class Encoder(nn.Module):
    """(B, 3, H, W) images -> (B, dim, H/f, W/f) features; f: the pixels that a token covers."""

    def __init__(self, filters, multipliers, blocks, dim, groups, unshuffle):
        super().__init__()
        self.blocks_per_level = blocks
        self.unshuffle = unshuffle
        self.stem = nn.Conv2d(3 * unshuffle**2, filters, 3, padding=1, bias=False)
        widths = [filters]
        for multiplier in multipliers:
            widths += [filters * multiplier] * blocks
        widths += [widths[-1]] * blocks  # the middle blocks
        self.blocks = residual_blocks(widths, groups)
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, images):
        x = self.stem(F.pixel_unshuffle(images, self.unshuffle))
        # There is no pooling after the last level, nor between the middle blocks.
        last_pooling = len(self.blocks) - 2 * self.blocks_per_level
        for i, block in enumerate(self.blocks):
            if i % self.blocks_per_level == 0 and 0 < i <= last_pooling:
                x = F.avg_pool2d(x, 2)
            x = block(x)
        return self.out(F.silu(self.norm(x)))


class Decoder(nn.Module):
    """(B, dim, H/f, W/f) codes -> (B, 3, H, W) images."""

    def __init__(self, filters, multipliers, blocks, dim, groups, unshuffle):
        super().__init__()
        self.blocks_per_level = blocks
        self.unshuffle = unshuffle
        levels = [filters * multiplier for multiplier in reversed(multipliers)]
        widths = [levels[0]] * (blocks + 1)  # the middle blocks
        for width in levels:
            widths += [width] * blocks
        self.stem = nn.Conv2d(dim, levels[0], 3, padding=1)
        self.blocks = residual_blocks(widths, groups)
        self.ups = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in levels[:-1])
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.out = nn.Conv2d(widths[-1], 3 * unshuffle**2, 3, padding=1)

    def forward(self, codes):
        x = self.stem(codes)
        for i, block in enumerate(self.blocks):
            # Neither the middle blocks nor the coarsest level have an upsampling before them.
            upsampling = i // self.blocks_per_level - 2
            if i % self.blocks_per_level == 0 and upsampling >= 0:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.ups[upsampling](x)
            x = block(x)
        return F.pixel_shuffle(self.out(F.silu(self.norm(x))), self.unshuffle)


class VQGAN(nn.Module):
    """Encoder, code book and decoder. What is not given is as PUBLISHED.

    filters: the base width. multipliers: of this width, one a level, the finest level first; n
    levels shrink an image 2^(n-1) times. blocks: residual blocks a level. codes, dim: the size of
    the code book and of a code. groups: of the group norms, 32 in the official code. unshuffle: 1
    is the official stem; 2 folds 2x2 pixels into channels first, which is four times cheaper.

    The official network is all convolutions. patches=True (ours) adds a linear path from a token's
    own pixels to its features, and one from its code to the pixels. The convolutions are then added
    to it times a gain that starts at zero (ReZero, Bachlechner et al. 2020, arXiv:2003.04887), so
    that they can only improve on the patches. convolutions=False leaves the patches alone.
    """

    def __init__(self, **config):
        super().__init__()
        self.config = PUBLISHED | config
        filters, multipliers, blocks, codes, dim, groups, *rest = self.config.values()
        unshuffle, convolutions, patches = rest
        self.patch = unshuffle * 2 ** (len(multipliers) - 1)  # pixels that a token covers, each way
        if convolutions:
            shape = filters, multipliers, blocks, dim, groups, unshuffle
            self.encoder = Encoder(*shape)
            self.decoder = Decoder(*shape)
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))
        if patches:
            values = 3 * self.patch**2
            self.patch_to_code = nn.Conv2d(values, dim, 1)
            self.code_to_patch = nn.Conv2d(dim, values, 1)
        if patches and convolutions:
            self.encoder_gain = nn.Parameter(torch.zeros(()))
            self.decoder_gain = nn.Parameter(torch.zeros(()))

    def features(self, images):
        """(B, 3, H, W) in [0, 1] -> (B, dim, H/f, W/f): what is compared with the code book."""
        if not self.config["patches"]:
            return self.encoder(images)
        features = self.patch_to_code(F.pixel_unshuffle(images, self.patch))
        if self.config["convolutions"]:
            features = features + self.encoder_gain * self.encoder(images)
        return features

    def pixels(self, codes):
        """(B, dim, H/f, W/f) -> (B, 3, H, W), linear: nothing clips it to [0, 1]."""
        if not self.config["patches"]:
            return self.decoder(codes)
        pixels = F.pixel_shuffle(self.code_to_patch(codes), self.patch)
        if self.config["convolutions"]:
            pixels = pixels + self.decoder_gain * self.decoder(codes)
        return pixels

    def nearest(self, features):
        """(N, dim) -> (N,) ids of the nearest codes, the first of equally near ones.

        Squared Euclidean distance in float32.
        """
        codes = self.codebook.float()
        with torch.autocast(codes.device.type, enabled=False):
            features = features.float()
            products = features @ codes.T
            lengths = features.square().sum(1, keepdim=True)
            return (lengths - 2 * products + codes.square().sum(1)).argmin(1)

    def encode(self, images):
        """(B, 3, H, W) in [0, 1] -> (B, tokens) ids."""
        ids = self.nearest(rows(self.features(images)))
        return ids.view(len(images), -1)

    def decode(self, ids):
        """(B, tokens) ids in [0, codes), a square grid -> (B, 3, H, W), not clipped to [0, 1]."""
        side = round(ids.shape[1] ** 0.5)
        grid = self.codebook[ids].view(len(ids), side, side, -1).permute(0, 3, 1, 2)
        # Convolutions are slow where the values of one pixel lie side by side.
        return self.pixels(grid.contiguous())

    def forward(self, images):
        """Training: images -> (reconstruction, features (N, dim), their codes (N, dim), ids (N,)).

        The gradient of the reconstruction passes the quantisation straight through to the features.
        """
        features = self.features(images)
        batch, dim, height, width = features.shape
        flat = rows(features)
        ids = self.nearest(flat)
        codes = self.codebook[ids]
        quantised = codes.view(batch, height, width, dim).permute(0, 3, 1, 2)
        straight_through = features + (quantised - features).detach()
        return self.pixels(straight_through), flat, codes, ids


def rows(features):
    """(B, dim, H, W) -> (B * H * W, dim)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


# ---------------------------------------------------------------- what trains it
class Perceptual(nn.Module):
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) without its learned weights.

    The mean squared distance of channel-normalised VGG-16 features after conv1_2, conv2_2, conv3_3,
    conv4_3 and conv5_3. file: torchvision's VGG-16 weights.
    """

    def __init__(self, file):
        super().__init__()
        from torchvision.models import vgg16

        vgg = load_strictly(vgg16(), run.load(file), file)
        ends = [0, 4, 9, 16, 23, 30]
        self.slices = nn.ModuleList(vgg.features[a:b] for a, b in itertools.pairwise(ends))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x, y):
        """Two batches (B, 3, H, W) in [0, 1] -> a scalar."""
        x = (x - self.mean) / self.std
        y = (y - self.mean) / self.std
        total = 0
        for part in self.slices:
            x = part(x)
            y = part(y)
            difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            total = total + difference.square().sum(1).mean()
        return total


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit for each patch of the image.

    GroupNorm stands in place of BatchNorm, so that real and generated images, and the processes, do
    not see each other.
    """

    def __init__(self):
        super().__init__()
        stack = [nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for width_in, width_out, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            stack += [
                nn.Conv2d(width_in, width_out, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(32, width_out),
                nn.LeakyReLU(0.2),
            ]
        stack.append(nn.Conv2d(512, 1, 4, padding=1))
        self.layers = nn.Sequential(*stack)

    def forward(self, images):
        """(B, 3, H, W) in [0, 1] -> logits (B, 1, h, w): positive for a real patch."""
        return self.layers(images)


def hinge_loss(real, generated):
    """The discriminator's loss, a scalar, from its logits of real and of generated images."""
    return (F.relu(1 - real).mean() + F.relu(1 + generated).mean()) / 2


def adaptive_weight(reconstruction_loss, generator_loss, last_layer):
    """VQGAN, equation 7: the ratio of the two losses' gradients at the decoder's last layer.

    The gradients are those of the whole batch: DistributedDataParallel averages what `backward`
    accumulates, but not what `autograd.grad` returns.
    """
    norms = []
    for loss in (reconstruction_loss, generator_loss):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        mean = parallel.all_sum(gradient) / parallel.world()
        norms.append(mean.norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
