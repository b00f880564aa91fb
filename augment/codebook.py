"""A tokenizer's code book: where its codes start, what becomes of unused ones, how it is used.

And what a transformer's embeddings can start from: the codes, and the places of the tokens.
"""

import torch

from base import parallel, run
from models.vqgan import rows

DEVIATION = 0.02  # of a transformer's random embeddings


# ---------------------------------------------------------------- codes
@torch.no_grad()
def start_at_features(model, images, seed):
    """Move the codes to features of the first batch."""
    features = rows(model.features(images)).float()
    features = parallel.gather(features)
    codes = len(model.codebook)
    rng = run.seed_rng(seed, "codes")
    chosen = rng.choice(len(features), codes, replace=len(features) < codes)
    chosen = torch.from_numpy(chosen).to(features.device)
    model.codebook.copy_(features[chosen])


def count(ids, codes):
    """How often each code occurs in ids (N,) of all processes: float (codes,)."""
    # Not bincount, which waits for the GPU.
    counts = torch.zeros(codes, device=ids.device)
    ones = torch.ones(len(ids), device=ids.device)
    counts.index_add_(0, ids, ones)
    return parallel.all_sum(counts)


@torch.no_grad()
def restart(model, dead, features, rng):
    """Move the dead codes, bool (codes,), to random features of the batch (N, dim)."""
    features = parallel.gather(features)
    chosen = rng.integers(len(features), size=len(dead))
    chosen = torch.from_numpy(chosen).to(features.device)
    moved = torch.where(dead[:, None], features[chosen], model.codebook)
    model.codebook.copy_(moved)


def usage(counts):
    """{name: number}: how many codes were used, and the perplexity of their distribution."""
    share = counts / counts.sum()
    logarithm = share.clamp(min=1e-12).log()
    entropy = -(share * logarithm).sum()
    used = counts > 0
    return {"codes_used": int(used.sum()), "perplexity": float(entropy.exp())}


# ---------------------------------------------------------------- embeddings
@torch.no_grad()
def start_embeddings(transformer, codes):
    """Start a MaskGIT's words as the codes (codes, dim), and its positions as 2-D sines.

    Similar codes then begin as similar words, and near places as similar places. Words and
    positions keep the standard deviation of the random start.
    """
    width = transformer.config["dim"]
    codes = codes.cpu()
    projection = torch.empty(codes.shape[1], width)
    torch.nn.init.orthogonal_(projection)
    words = (codes - codes.mean(0)) @ projection
    transformer.word.weight[: len(codes)] = with_deviation(words)

    side = round(transformer.config["tokens"] ** 0.5)
    waves = sines(side, width // 4)
    transformer.position.weight[:, : waves.shape[1]] = with_deviation(waves)


def with_deviation(values):
    deviation = values.std().clamp(min=1e-6)
    return values * DEVIATION / deviation


def sines(side, n):
    """(side * side, 4 * n): sines and cosines of n wavelengths, of the row and of the column.

    The wavelengths are those of Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.
    """
    exponents = torch.arange(n) / n
    frequencies = 10_000.0**-exponents
    places = torch.arange(side)
    angles = places[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], 1)
    of_the_row = line.repeat_interleave(side, 0)
    of_the_column = line.repeat(side, 1)
    return torch.cat([of_the_row, of_the_column], 1)
