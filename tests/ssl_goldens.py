"""Reference values of the six methods, and tiny heads for tests.

Official code: facebookresearch/vicreg @ 4e12602, barlowtwins @ 8e8d284, dino @ 7c446df, swav @
06b1b7c, google-research/simclr @ 383d414, deepmind-research @ 09270ed, apex LARC @ cb65b8e~1.
"""

from pathlib import Path

import numpy as np
import torch

GOLDENS = np.load(Path(__file__).parent / "goldens/ssl/losses.npz")
GOLD = {name: torch.from_numpy(value) for name, value in GOLDENS.items()}
TINY = dict(
    vicreg=dict(projector="16-24"),
    barlow=dict(projector="16-24"),
    simclr=dict(projector="16-16-8"),
    dino=dict(projector="16-16-8-32", freeze=0.0),
    byol=dict(projector="16-8"),
    swav=dict(projector="16-8-20", freeze=0.0, queue=16, queue_start=0.0, global_views=3),
)


def gold(*names, dtype=torch.float64):
    return [GOLD[name].to(dtype, copy=True) for name in names]


def tolerance(dtype, gradient=False):
    if dtype == torch.float64:
        return dict(rtol=1e-10, atol=1e-12)
    return dict(rtol=2e-5, atol=2e-6 if gradient else 0)
