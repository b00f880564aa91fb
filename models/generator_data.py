"""What a generator's training reads: pixels for the tokenizer, tokens for the transformer.

Images are uint8 (B, 3, size, size) as they are read and float in [0, 1] on the device.
"""

import os
from functools import partial

import numpy as np
import torch

from models import parallel, run
from models.images import read_ahead, read_image, square

TOKENIZE_BATCH = 64  # images


# ---------------------------------------------------------------- pixels
def read_batch(root, size, seed, batch):
    """[(epoch, path), ...] -> uint8 (B, 3, size, size), flipped left-right at random.

    At epoch None nothing is flipped.
    """
    images = np.empty((len(batch), 3, size, size), np.uint8)
    for i, (epoch, path) in enumerate(batch):
        image = read_image(os.path.join(root, path))
        image = square(image, size)
        if epoch is not None:
            rng = run.seed_rng(seed, "flip", epoch, path)
            if rng.random() < 0.5:
                image = image[:, ::-1]
        images[i] = image.transpose(2, 0, 1)
    return torch.from_numpy(images)


def batches_of_paths(paths, args, first, total):
    """This process's batches of the steps from `first` to `total` - 1, for read_batch."""
    for batch in run.batches(len(paths), args.batch_size, args.seed, first, total):
        yield [(None if args.no_flip else epoch, paths[index]) for epoch, index in batch]


def to_float(images, device):
    """uint8 -> float in [0, 1] on the device."""
    return images.to(device, non_blocking=True).float() / 255


# ---------------------------------------------------------------- tokens
@torch.no_grad()
def tokenize(tokenizer, args, paths, out, device):
    """The tokens of every image and of its mirror image, int32 (n, 2, tokens), on the CPU.

    Training then reads no pixels. The tokens stay in the run folder `out` until it is finished;
    args.json beside them holds the tokenizer's hash and that of the list of images.
    """
    file = out / "tokens.pth"
    if file.exists():
        return run.load(file)
    length = (tokenizer.image_size // tokenizer.patch) ** 2
    tokens = torch.zeros(len(paths), 2, length, dtype=torch.int32, device=device)
    # The batches are fixed and dealt whole, so that the number of processes does not matter.
    starts = range(0, len(paths), TOKENIZE_BATCH)
    batches = [(start, paths[start : start + TOKENIZE_BATCH]) for start in starts]
    dealt = parallel.deal(batches, "tokens")
    read = partial(read_numbered, args.data, tokenizer.image_size)
    bar = run.progress(len(paths), "encoding")
    for start, images in read_ahead(dealt, read, args.workers, device):
        x = to_float(images, device)
        with run.autocast(device, args.precision):
            plain = tokenizer.encode(x)
            mirrored = tokenizer.encode(x.flip(3))
        end = start + len(x)
        tokens[start:end, 0] = plain
        tokens[start:end, 1] = mirrored
        bar.update(len(x))
    bar.close()
    parallel.barrier()
    tokens = parallel.all_sum(tokens).cpu()
    if parallel.rank() == 0:
        run.save(file, tokens)
    return tokens


def read_numbered(root, size, item):
    """(number of the first image, paths) -> (the same number, uint8 (B, 3, size, size))."""
    start, paths = item
    return start, read_batch(root, size, None, [(None, path) for path in paths])


def batches_of_tokens(tokens, args, first, total):
    """This process's batches of the steps from `first` to `total` - 1, to predict hidden tokens.

    tokens: (n, 2, length) of the images and their mirror images. Yields, on the CPU, the tokens
    (B, length) of images that are mirrored at random, which of them are hidden, bool (B, length),
    and this process's share of the hidden tokens of all processes, times the number of these: the
    weight of its loss, so that each hidden token counts the same.
    """
    length = tokens.shape[2]
    each = args.batch_size // parallel.world()
    mine = slice(parallel.rank() * each, (parallel.rank() + 1) * each)
    batches = run.batches(len(tokens), args.batch_size, args.seed, first, total)
    for step, batch in enumerate(batches, first):
        # They are drawn for the whole batch, so that the number of processes does not matter.
        rng = run.seed_rng(args.seed, "masks", step, 0)
        mirrored = rng.integers(0, 1 if args.no_flip else 2, args.batch_size)
        hidden = draw_masks(rng, args.batch_size, length)
        share = hidden[mine].sum() * parallel.world() / hidden.sum()
        images = [index for _, index in batch]
        wanted = tokens[torch.tensor(images), torch.from_numpy(mirrored[mine])]
        yield wanted.long(), torch.from_numpy(hidden[mine]), float(share)


def draw_masks(rng, n, length):
    """The tokens that one training step hides, bool (n, length).

    Their number follows the cosine schedule: each share of hidden tokens comes as often as decoding
    meets it.
    """
    share = np.cos(np.pi / 2 * rng.random(n))
    hidden = np.ceil(share * length).clip(1, length)
    rank = rng.random((n, length)).argsort(1).argsort(1)
    return rank < hidden[:, None]
