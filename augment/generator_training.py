"""A generator's training: what it reads, the k-means start, the code book, the pictures it draws.

Used by 00 and extras/train_augmenter.py. Images are uint8 (B, size, size, 3) as they are read and
float in [0, 1] on the device.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from augment.masks import shares
from augment.strategy import from_bytes, to_bytes
from base import parallel, run, run_folder
from base.training import Clock
from images.files import read_ahead
from images.pictures import contact_sheet, square
from images.plots import curves
from models import maskgit
from models.vqgan import rows

# ---- the tokenizer
COMMITMENT = 0.25  # weight of the commitment loss (VQGAN)
GAN_START = 0.1  # share of the training before the discriminator joins (our choice)
RESTART_STEPS = 100  # after so many, a code that was not used moves to a feature (our choice)
# ---- the transformer
DROPOUT = 0.1  # MaskGIT
LABEL_SMOOTHING = 0.1  # MaskGIT
# ---- the k-means start
SAMPLE_IMAGES = 2048  # images that patches are taken from
PATCHES_PER_CODE = 128
MOST_PATCHES = 2**17
START_POINTS_PER_CODE = 16  # of those, the ones among which k-means starts
ITERATIONS = 10  # of k-means; more gain less than 0.05 dB
CHUNK = 8192  # patches whose distances are held at once
# ---- reading and drawing
READ = 64  # images at once, where they are not those of a step
PICTURE_MINUTES = 1  # pictures are drawn at most so often


# ---------------------------------------------------------------- pixels
def read_squares(files, size, flips, batch):
    """[(epoch, index), ...] -> uint8 (B, size, size, 3), flipped left-right at random.

    files: an ImageList; where an image cannot be read, the next one stands in. flips: the seed of
    the flips; None: nothing is flipped.
    """
    images = []
    for epoch, index in batch:
        image, _ = files.read_or_next(index)
        image = square(image, size)
        if flips is not None:
            rng = run.seed_rng(flips, "flip", epoch, files.path(index))
            if rng.random() < 0.5:
                image = image[:, ::-1]
        images.append(image)
    return torch.from_numpy(np.stack(images))


def eight_images(files, size, device):
    """Eight images from all over an ImageList: float (8, 3, size, size) in [0, 1], not flipped."""
    eight = [(0, len(files) * i // 8) for i in range(8)]
    return from_bytes(read_squares(files, size, None, eight), device)


def parts(indices):
    """Numbers of images -> batches of READ of them, for read_squares."""
    batch = [(0, index) for index in indices]
    return [batch[begin : begin + READ] for begin in range(0, len(batch), READ)]


# ---------------------------------------------------------------- tokens
@torch.no_grad()
def tokenize(tokenizer, files, workers, precision):
    """The tokens of n images and of their mirror images: int32 (n, 2, tokens), on the CPU.

    files: an ImageList. Each process encodes whole batches, the same whatever the number of
    processes.
    """
    n = len(files)
    read = partial(read_squares, files, tokenizer.image_size, None)
    device = tokenizer.codebook.device
    length = (tokenizer.image_size // tokenizer.patch) ** 2
    tokens = torch.zeros(n, 2, length, dtype=torch.int32, device=device)
    mine = parts(range(n))[parallel.rank() :: parallel.world()]
    bar = run.progress(len(mine), "encoding")
    for batch, images in zip(mine, read_ahead(mine, read, workers, device), strict=True):
        numbers = [index for _, index in batch]
        x = from_bytes(images, device)
        with run.autocast(device, precision):
            both = [tokenizer.encode(x), tokenizer.encode(x.flip(3))]
        tokens[numbers] = torch.stack(both, 1).int()
        bar.update()
    bar.close()
    parallel.barrier()
    return parallel.all_sum(tokens).cpu()


def token_batches(tokens, batch_size, seed, flip, first, total):
    """This process's batches of the steps from `first` to `total` - 1, to predict hidden tokens.

    tokens: (n, 2, length) of the images and their mirror images. Yields, on the CPU, the tokens
    (B, length) of images that are mirrored at random if `flip`, which of them are hidden, bool
    (B, length), and this process's share of the hidden tokens of all processes, times the number of
    these: the weight of its loss, so that each hidden token counts the same.
    """
    each = batch_size // parallel.world()
    mine = slice(parallel.rank() * each, (parallel.rank() + 1) * each)
    for step, batch in enumerate(run.batches(len(tokens), batch_size, seed, first, total), first):
        # They are drawn for the whole batch, so that the number of processes does not matter.
        rng = run.seed_rng(seed, "masks", step, 0)
        mirrored = rng.integers(0, 2 if flip else 1, batch_size)
        hidden = draw_masks(rng, batch_size, tokens.shape[2])
        share = hidden[mine].sum() * parallel.world() / hidden.sum()
        images = [index for _, index in batch]
        yield tokens[images, mirrored[mine]].long(), torch.from_numpy(hidden[mine]), float(share)


def draw_masks(rng, n, length):
    """The tokens that one training step hides, bool (n, length).

    Their number follows the cosine schedule: each share of hidden tokens comes as often as decoding
    meets it.
    """
    masked = np.cos(np.pi / 2 * rng.random(n))
    hidden = np.ceil(masked * length).clip(1, length)
    rank = rng.random((n, length)).argsort(1).argsort(1)
    return rank < hidden[:, None]


# ---------------------------------------------------------------- the k-means start
def start_at_kmeans(model, read, n, seed, workers, out):
    """Make the model, a VQGAN with patches=True, the k-means tokenizer of the images' patches.

    The codes are the means of clusters of patches, and a patch is replaced by the mean nearest to
    it. Process 0 does it. The others get the weights where DistributedDataParallel begins.
    """
    if parallel.rank() == 0:
        patches = sample_patches(model, read, n, seed, workers)
        psnr, used = start_at_patches(model, patches, seed)
        run_folder.log(out, event="kmeans", patches=len(patches), codes_used=used, psnr=psnr)
        print(f"k-means: {used} codes, PSNR {psnr:.1f} dB on {len(patches)} patches", flush=True)
    parallel.barrier()


@torch.no_grad()
def sample_patches(model, read, n, seed, workers):
    """Random patches of random images: (number, 3 * patch * patch) in [0, 1].

    read: [(epoch, index), ...] -> uint8 images; n: the number of images. The values of a patch are
    in the order of F.pixel_unshuffle.
    """
    device = model.codebook.device
    rng = run.seed_rng(seed, "patches")
    chosen = rng.permutation(n)[:SAMPLE_IMAGES].tolist()
    wanted = min(PATCHES_PER_CODE * len(model.codebook), MOST_PATCHES)
    each = math.ceil(wanted / len(chosen))
    sampled = []
    for images in read_ahead(parts(chosen), read, workers, device):
        patches = F.pixel_unshuffle(from_bytes(images, device), model.patch)
        patches = patches.flatten(2).transpose(1, 2)
        order = rng.random(patches.shape[:2]).argsort(1)[:, :each, None]
        sampled.append(patches.take_along_dim(torch.from_numpy(order).to(device), 1))
    return torch.cat(sampled).flatten(0, 1)


@torch.no_grad()
def start_at_patches(model, patches, seed):
    """Make the model the k-means tokenizer of the patches (n, values).

    A code holds its patch in the principal axes of the patches (PCA), as many as it has numbers,
    scaled to a mean square of 1: the losses of the code book then weigh what they weigh in a
    network with random weights. Returns (PSNR in dB, number of codes used) on the patches.
    """
    mean = patches.mean(0)
    centred = patches - mean
    number, dim = model.codebook.shape
    covariance = centred.T @ centred / len(centred)
    _, axes = torch.linalg.eigh(covariance)  # columns, the smallest variance first
    axes = axes.flip(1).T[:dim]
    variance = centred.square().sum(1).mean()
    scale = (dim / variance.clamp(min=1e-4)).sqrt()  # constant images have no variance
    projection = patches.new_zeros(dim, patches.shape[1])
    projection[: len(axes)] = axes * scale

    features = centred @ projection.T
    codes = kmeans(features, number, run.seed_rng(seed, "kmeans"))
    model.codebook.copy_(codes)
    model.patch_to_code.weight.copy_(projection[:, :, None, None])
    model.patch_to_code.bias.copy_(-projection @ mean)
    model.code_to_patch.weight.copy_(projection.T[:, :, None, None] / scale**2)
    model.code_to_patch.bias.copy_(mean)

    ids, _ = nearest(features, codes)
    again = codes[ids] @ projection / scale**2
    return decibels(F.mse_loss(again, centred).item()), len(ids.unique())


def decibels(mse):
    """Mean squared error of values in [0, 1] -> PSNR in dB."""
    return -10 * math.log10(max(mse, 1e-10))


def kmeans(points, k, rng):
    """Lloyd's algorithm: points (n, d) -> the means of k clusters (k, d).

    A mean that no point is nearest to moves to one of the points that are farthest from their
    means. Where the points have fewer than k different values, some means are equal.
    """
    means = far_apart(points, k, rng)
    for _ in range(ITERATIONS):
        ids, distances = nearest(points, means)
        counts = torch.bincount(ids, minlength=k)
        sums = torch.zeros_like(means).index_add_(0, ids, points)
        means = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[: len(points), 0]
        means[empty] = points[distances.topk(len(empty)).indices]
    return means


def far_apart(points, k, rng):
    """The start of k-means++ (Arthur and Vassilvitskii 2007): k of the points, each drawn with a
    chance that grows with the squared distance to the nearest of those before it.
    """
    candidates = points[rng.permutation(len(points))[: START_POINTS_PER_CODE * k]]
    chosen = [0]
    least = torch.inf
    for draw in rng.random(k - 1):
        distances = (candidates - candidates[chosen[-1]]).square().sum(1)
        least = distances.clamp(max=least)
        summed = least.double().cumsum(0)
        drawn = torch.searchsorted(summed, draw * summed[-1])
        chosen.append(int(drawn))
    return candidates[chosen]


def nearest(points, means):
    """(ids (n,) of the nearest means, squared distances (n,) to them)."""
    lengths = means.square().sum(1)
    ids, distances = [], []
    for part in points.split(CHUNK):
        least = (lengths - 2 * (part @ means.T)).min(1)
        ids.append(least.indices)
        distances.append(least.values + part.square().sum(1))
    return torch.cat(ids), torch.cat(distances)


# ---------------------------------------------------------------- the code book
@torch.no_grad()
def start_at_features(model, images, seed):
    """Move the codes to features of the first batch: float images (B, 3, size, size) in [0, 1]."""
    features = parallel.gather(rows(model.features(images)).float())
    codes = len(model.codebook)
    rng = run.seed_rng(seed, "codes")
    chosen = rng.choice(len(features), codes, replace=len(features) < codes)
    model.codebook.copy_(features[chosen])


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
    chosen = rng.integers(len(features), size=len(dead))
    model.codebook.copy_(torch.where(dead[:, None], features[chosen], model.codebook))


def usage(counts):
    """{name: number}: how many codes were used, and the perplexity of their distribution."""
    frequency = counts / counts.sum()
    entropy = -(frequency * frequency.clamp(min=1e-12).log()).sum()
    return {"codes_used": int((counts > 0).sum()), "perplexity": float(entropy.exp())}


# ---------------------------------------------------------------- the loop
def steps(state, batches, per_epoch, total, means, draw):
    """Yield (step, batch), and after each step log, draw and save what is due.

    state: a Resumable. means(): {name: mean since the last line of the log}, for the next line.
    draw(): draws the pictures; it is called at the end as well.
    """
    bar = run.progress(total, "steps", state.step)
    pictures = Clock(PICTURE_MINUTES)
    for step, batch in enumerate(batches, state.step):
        yield step, batch
        done = step + 1
        bar.update()
        if done % per_epoch == 0 or done == total:
            terms = means()
            run_folder.log(state.out, event="epoch", epoch=done / per_epoch, step=done, **terms)
            bar.set_postfix(terms)
            if done < total and pictures.due():
                draw()
        state.save_if_due(step, total)
    bar.close()
    draw()


# ---------------------------------------------------------------- pictures
@torch.no_grad()
def draw_reconstructions(out, model, images, precision):
    """reconstructions.png: float images (B, 3, S, S) in [0, 1] above what their tokens hold."""
    if parallel.rank() == 0:
        with run.autocast(images.device, precision):
            again = model.decode(model.encode(images))
        write_pictures(out, "reconstructions.png", [images, again], ["l1", "psnr", "perplexity"])


@torch.no_grad()
def draw_samples(out, model, tokenizer, seed, precision):
    """samples.png: eight images made from nothing, in the 12 steps that 02 takes."""
    if parallel.rank() == 0:
        device = tokenizer.codebook.device
        empty = torch.full((8, model.config["tokens"]), maskgit.MASK, device=device)
        rngs = [run.seed_rng(seed, "sample", i) for i in range(8)]
        with run.autocast(device, precision):
            sampling = maskgit.Sampling(shares("cosine", 12))
            images = tokenizer.decode(maskgit.sample(model, empty, None, rngs, sampling))
        write_pictures(out, "samples.png", [images], ["loss", "accuracy"])


def write_pictures(out, name, lines, terms):
    """A sheet with one line for each batch of images, and the curves of the log's terms."""
    contact_sheet(out / name, [to_bytes(images).numpy() for images in lines])
    curves(out / "curves.png", run_folder.read_log(out, "epoch"), terms)
