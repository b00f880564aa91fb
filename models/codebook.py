"""A tokenizer's code book: where its codes start, what becomes of unused ones, how it is used."""

import torch

from models import parallel, run
from models.vqgan import rows


@torch.no_grad()
def start_at_features(model, images, seed):
    """Move the codes to features of the first batch."""
    features = parallel.gather(rows(model.features(images)).float())
    codes = len(model.codebook)
    chosen = run.seed_rng(seed, "codes").choice(len(features), codes, len(features) < codes)
    model.codebook.copy_(features[torch.from_numpy(chosen).to(features.device)])


def count(ids, codes):
    """How often each code occurs in ids (N,) of all processes: float (codes,)."""
    # Not bincount, which waits for the GPU.
    counts = torch.zeros(codes, device=ids.device)
    counts.index_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))
    return parallel.all_sum(counts)


@torch.no_grad()
def restart(model, dead, features, rng):
    """Move the dead codes, bool (codes,), to random features of the batch (N, dim)."""
    features = parallel.gather(features)
    chosen = torch.from_numpy(rng.integers(len(features), size=len(dead)))
    moved = features[chosen.to(features.device)]
    model.codebook.copy_(torch.where(dead[:, None], moved, model.codebook))


def usage(counts):
    """{name: number}: how many codes were used, and the perplexity of their distribution."""
    share = counts / counts.sum()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return {"codes_used": int((counts > 0).sum()), "perplexity": float(entropy.exp())}
