"""What a generator's training reads: pixels for the tokenizer, tokens for the transformer.

Images are uint8 (B, 3, size, size) as they are read and float in [0, 1] on the device.
"""

from functools import partial

import numpy as np
import torch

from base import parallel, run
from images.files import read_ahead
from images.pictures import square

TOKENIZE_BATCH = 64  # images


# ---------------------------------------------------------------- pixels
def read_batch(files, size, seed, batch):
    """[(epoch, index), ...] -> uint8 (B, 3, size, size), flipped left-right at random.

    files: an ImageList; where an image cannot be read, the next one stands in. At epoch None
    nothing is flipped.
    """
    images = np.empty((len(batch), 3, size, size), np.uint8)
    for i, (epoch, index) in enumerate(batch):
        image, _ = files.read_or_next(index)
        image = square(image, size)
        if epoch is not None:
            rng = run.seed_rng(seed, "flip", epoch, files.path(index))
            if rng.random() < 0.5:
                image = image[:, ::-1]
        images[i] = image.transpose(2, 0, 1)
    return torch.from_numpy(images)


def batches_of_files(files, args, first, total):
    """This process's batches of the steps from `first` to `total` - 1, for read_batch."""
    for batch in run.batches(len(files), args.batch_size, args.seed, first, total):
        yield [(None if args.no_flip else epoch, index) for epoch, index in batch]


def to_float(images, device):
    """uint8 -> float in [0, 1] on the device."""
    return images.to(device, non_blocking=True).float() / 255


# ---------------------------------------------------------------- tokens
@torch.no_grad()
def tokenize(tokenizer, args, files, out, device):
    """The tokens of every image and of its mirror image, int32 (n, 2, tokens), on the CPU.

    Training then reads no pixels. The tokens stay in the run folder `out` until it is finished;
    args.json beside them holds the tokenizer's hash and that of the list of images.
    """
    file = out / "tokens.pth"
    if file.exists():
        return run.load(file)
    length = (tokenizer.image_size // tokenizer.patch) ** 2
    tokens = torch.zeros(len(files), 2, length, dtype=torch.int32, device=device)
    # The batches are fixed and dealt whole, so that the number of processes does not matter.
    starts = range(0, len(files), TOKENIZE_BATCH)
    dealt = parallel.deal(starts, "tokens")
    read = partial(read_from, files, tokenizer.image_size)
    bar = run.progress(len(files), "encoding")
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


def read_from(files, size, start):
    """The number of a batch's first image -> (the same number, uint8 (B, 3, size, size))."""
    end = min(start + TOKENIZE_BATCH, len(files))
    return start, read_batch(files, size, None, [(None, index) for index in range(start, end)])


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
