"""A tokenizer that starts as k-means of image patches: its training begins at a good picture.

The codes are the means of clusters of patches, and a patch is replaced by the mean nearest to it.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from augment.generator_data import read_batch, to_float
from base import parallel, run, run_folder
from images.files import read_ahead
from models.vqgan import rows

SAMPLE_IMAGES = 2048  # images that patches are taken from
PATCHES_PER_CODE = 128
MOST_PATCHES = 2**17
ITERATIONS = 10  # of k-means; more gain less than 0.05 dB
READ = 64  # images at once
CHUNK = 8192  # patches whose distances are held at once


def start(model, files, args, out, device):
    """Make the model, a VQGAN with patches=True, the k-means tokenizer of the images' patches.

    Process 0 does it. The others get the weights from it where DistributedDataParallel begins.
    """
    if parallel.rank() == 0:
        patches = sample_patches(files, args, model.patch, device)
        psnr, used = start_at_patches(model, patches, args.seed)
        run_folder.log(out, event="kmeans", patches=len(patches), codes_used=used, psnr=psnr)
        print(f"k-means: {used} codes, PSNR {psnr:.1f} dB on {len(patches)} patches", flush=True)
    parallel.barrier()


@torch.no_grad()
def sample_patches(files, args, patch, device):
    """Random patches of random images, flipped as in training: (n, 3 * patch * patch) in [0, 1].

    The values of a patch stand in the order of F.pixel_unshuffle.
    """
    rng = run.seed_rng(args.seed, "patches")
    chosen = rng.permutation(len(files))[:SAMPLE_IMAGES].tolist()
    wanted = min(PATCHES_PER_CODE * args.codes, MOST_PATCHES)
    each = math.ceil(wanted / len(chosen))
    batches = []
    for begin in range(0, len(chosen), READ):
        some = chosen[begin : begin + READ]
        batches.append([(None if args.no_flip else 0, index) for index in some])
    read = partial(read_batch, files, args.size, args.seed)
    found = []
    for images in read_ahead(batches, read, args.workers, device):
        images = to_float(images, device)
        patches = rows(F.pixel_unshuffle(images, patch))
        patches = patches.unflatten(0, (len(images), -1))
        order = rng.random(patches.shape[:2]).argsort(1)
        for of_one_image, places in zip(patches, order[:, :each], strict=True):
            places = torch.from_numpy(places).to(device)
            found.append(of_one_image[places])
    return torch.cat(found)


@torch.no_grad()
def start_at_patches(model, patches, seed):
    """Make the model the k-means tokenizer of the patches (n, values).

    A code holds its patch in the principal axes of the patches (PCA), as many as it has numbers,
    scaled to a mean square of 1: the losses of the code book then weigh what they weigh in a
    network with random weights. Returns (PSNR in dB, number of codes used) on the patches.
    """
    mean = patches.mean(0)
    centred = patches - mean
    dim = model.config["dim"]
    covariance = centred.T @ centred / len(centred)
    _, axes = torch.linalg.eigh(covariance)  # columns, the smallest variance first
    axes = axes.flip(1).T[:dim]
    variance = centred.square().sum(1).mean()
    scale = (dim / variance.clamp(min=1e-4)).sqrt()  # constant images have no variance
    projection = patches.new_zeros(dim, patches.shape[1])
    projection[: len(axes)] = axes * scale

    features = centred @ projection.T
    codes = kmeans(features, model.config["codes"], run.seed_rng(seed, "kmeans"))
    model.codebook.copy_(codes)
    model.patch_to_code.weight.copy_(projection[:, :, None, None])
    model.patch_to_code.bias.copy_(-projection @ mean)
    model.code_to_patch.weight.copy_(projection.T[:, :, None, None] / scale**2)
    model.code_to_patch.bias.copy_(mean)

    ids, _ = nearest(features, codes)
    again = codes[ids] @ projection / scale**2
    mse = F.mse_loss(again, centred).item()
    psnr = -10 * math.log10(max(mse, 1e-10))
    return psnr, len(ids.unique())


def kmeans(points, k, rng):
    """Lloyd's algorithm: points (n, d) -> the means of k clusters (k, d).

    It starts at random points. A mean that no point is nearest to moves to one of the points that
    are farthest from their means. Where the points have fewer than k different values, some means
    are equal.
    """
    chosen = rng.choice(len(points), k, replace=len(points) < k)
    means = points[torch.from_numpy(chosen).to(points.device)]
    for _ in range(ITERATIONS):
        ids, distances = nearest(points, means)
        counts = torch.bincount(ids, minlength=k)
        sums = torch.zeros_like(means).index_add_(0, ids, points)
        means = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        empty = empty[: len(points)]
        farthest = distances.topk(len(empty)).indices
        means[empty] = points[farthest]
    return means


def nearest(points, means):
    """(ids (n,) of the nearest means, squared distances (n,) to them)."""
    lengths = means.square().sum(1)
    ids, distances = [], []
    for part in points.split(CHUNK):
        products = part @ means.T
        least = (lengths - 2 * products).min(1)
        ids.append(least.indices)
        distances.append(least.values + part.square().sum(1))
    return torch.cat(ids), torch.cat(distances)
