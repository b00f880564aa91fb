"""The strategy `feature-noise`: as `noise`, but IC-GAN's feature map changes, too (Table 2).

    python extras/feature_noise.py feature-noise --data ROOT/train --out gen/gaussian \\
        --feature-noise 0.01

An image G(z, f) of `noise` and one of this strategy have the same noise vector z and differ in the
feature map f. It changes in the order --steer, --navigator, --feature-noise;
extras/train_augmenter.py trains what --steer and --navigator take. All else is as 02_augment.py
says: this file adds an entry to its table, as one for a strategy of your own would.
"""

import importlib
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from scipy.special import ndtr, ndtri
from scipy.stats import truncnorm
from torch import nn

from augment import noise, registry
from augment.strategy import Entry
from base import cli, run
from base.weights import load_strictly

TRUNCATION = 2.0  # where the noise on the feature map is cut, in standard deviations (GenRep)


def add_arguments(p):
    noise.arguments(p)
    p.add_argument(
        "--feature-noise",
        type=cli.from_zero,
        help="standard deviation of Gaussian noise on the feature map (Formula 5), cut at two of "
        "them",
    )
    p.add_argument("--steer", help="a steering vector of extras/train_augmenter.py (Formula 6)")
    p.add_argument("--navigator", help="a navigator of extras/train_augmenter.py (Formula 7)")


# ---------------------------------------------------------------- changes of feature maps
# Each takes feature maps Z (B, D) and returns others of unit norm: the generator has seen no other
# norm.


def add_noise(feature, std, rngs):
    """Formula 5 (section 2.3.1): Z + W, where W = std * N(0, 1), cut before at +-TRUNCATION.

    Row i of W depends on rngs[i] alone.
    """
    low = ndtr(-TRUNCATION)
    width = feature.shape[1]
    rows = [rng.uniform(low, 1 - low, width) for rng in rngs]
    drawn = torch.from_numpy(ndtri(rows)).to(feature)
    return F.normalize(feature + std * drawn, dim=1)


def noise_norm(std, width):
    """The root mean square of the L2 norm of Formula 5's W in `width` dimensions."""
    return std * math.sqrt(width) * truncnorm.std(-TRUNCATION, TRUNCATION)


class Steering(nn.Module):
    """Formula 6 (section 2.3.1): Z + strength W_steer; `direction` (D,) is learned for one edit."""

    def __init__(self, width):
        super().__init__()
        self.direction = nn.Parameter(torch.zeros(width))

    def forward(self, feature, strength=1.0):
        return F.normalize(feature + strength * self.direction, dim=1)


class Navigator(nn.Module):
    """Formula 7 (section 2.3.2): Z + Navigator(Z), one linear layer.

    Its step is shortened to an L2 norm of `bound` where it is longer.
    """

    def __init__(self, width, bound=1.0):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("bound", torch.tensor(float(bound)))

    def forward(self, feature):
        step = self.layer(feature)
        length = step.norm(dim=1, keepdim=True).clamp_min(1e-12)
        step = step * (self.bound / length).clamp_max(1)
        return F.normalize(feature + step, dim=1)


# ---------------------------------------------------------------- the strategy
def feature_noise(args, device):
    """The `Strategy`."""
    networks = noise.load_icgan(args.weights, device)
    generator, _, files = networks
    moves = []
    for name, cls in (("steer", Steering), ("navigator", Navigator)):
        if path := getattr(args, name):
            move = load_strictly(cls(generator.feature_width), noise.load_state(path), path)
            moves.append(move.to(device))
            files[name] = run.file_hash(path)

    def change(feature, paths, view):
        for move in moves:
            feature = move(feature)
        if args.feature_noise is not None:
            rngs = [run.seed_rng(args.seed, path, "feature noise", view) for path in paths]
            feature = add_noise(feature, args.feature_noise, rngs)
        return feature

    return noise.noise(args, device, networks, change)


registry.STRATEGIES["feature-noise"] = Entry(
    "Change the feature map, generate with IC-GAN.", add_arguments, feature_noise
)
if __name__ == "__main__":
    stage = importlib.import_module("02_augment")
    run.launch(stage.main, stage.arguments())
