"""Mean and covariance of the features of a folder's images, and the file beside it that keeps them.

The features are those of the FID's Inception network, or those of any backbone.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from base import parallel, run
from evaluate.features import normalise
from images.files import read_ahead
from images.pictures import square
from images.read import UnreadableImage, read_image
from images.unreadable import check_failed
from models import fid
from models.resnet import load_backbone


class Features(NamedTuple):
    """What turns images into features.

    network(stacks): list of uint8 (b, H, W, 3) tensors, one for each size of images -> (B, width).
    size: side of the centre squares that it is given, 0 for whole images.
    name: of the features. settings: {name: value} of all that the features depend on.
    """

    network: Callable
    width: int
    size: int
    name: str
    settings: dict


def load_features(args, device):
    """The Features that --features, --weights, --size and --precision ask for."""
    size = args.size
    if args.features == "inception":
        network, path = fid.load_inception(args.weights)
        name = "inception"
        digest = run.file_hash(path)
        width = network.width
        prepare = partial(to_device, device=device)
    else:
        network, width, info = load_backbone(args.features, prefix=args.prefix)
        name = info["architecture"]
        digest = info["sha256"] or "random"
        size = size or info["args"].get("size", 224)
        prepare = partial(squares_to_device, device=device, backbone=network)
    network = network.to(device, memory_format=torch.channels_last)
    settings = {"features": name, "weights": digest, "size": size, "precision": args.precision}

    @torch.inference_mode()
    def forward(stacks):
        with run.autocast(device, args.precision):
            return network(prepare(stacks))

    return Features(forward, width, size, name, settings)


def to_device(stacks, device):
    return [stack.to(device, non_blocking=True) for stack in stacks]


def squares_to_device(stacks, device, backbone):
    return normalise(torch.cat(stacks), device, backbone)


# ---------------------------------------------------------------- reading
def read_batch(files, size):
    """Files -> (the files, stacks, {file: why} of those that cannot be read).

    stacks: uint8 (b, H, W, 3) tensors, one for each size of images. The files come back in the
    order of the images in the stacks. size: see `Features`.
    """
    stacks = {}
    failed = {}
    for file in files:
        try:
            image = read_image(file)
        except UnreadableImage as error:
            failed[file] = str(error)
            continue
        if size:
            image = square(image, size)
        stacks.setdefault(image.shape, []).append((file, image))
    names, tensors = [], []
    for pairs in stacks.values():
        names += [file for file, _ in pairs]
        images = np.stack([image for _, image in pairs])
        tensors.append(torch.from_numpy(images))
    return names, tensors, failed


def moments_of_files(files, features, args, device, what):
    """(number, mean, covariance) of the features of the files, over all processes, in one pass.

    Files that cannot be read are named and left out; see unreadable.check_failed.
    """
    batch_size = args.batch_size
    moments = fid.Moments(features.width, device)
    batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
    mine = batches[parallel.rank() :: parallel.world()]
    read = partial(read_batch, size=features.size)
    names, finite, failed = [], [], {}
    with run.progress(len(files), what) as bar:
        for batch, stacks, unread in read_ahead(mine, read, args.workers, device):
            bar.update(min((len(batch) + len(unread)) * parallel.world(), len(files) - bar.n))
            failed |= unread
            if not batch:
                continue
            rows = features.network(stacks)
            moments.add(rows)
            # Whether they are finite is looked at later: nothing waits for the device here.
            finite.append(rows.isfinite().all(1))
            names += batch
    check_failed(failed, len(files), args.max_unreadable)
    first_bad = None
    if names and not (good := torch.cat(finite)).all():
        first_bad = names[int(good.logical_not().nonzero()[0])]
    found = [name for name in parallel.everyone(first_bad) if name is not None]
    if found:
        run.fail(
            f"The features of {found[0]} are not finite: the network's weights are damaged, or "
            "--precision fp32 is needed."
        )
    return moments.result()


# ---------------------------------------------------------------- keeping
def identity_of(root, paths):
    """A digest of the files' names, sizes, times of change and inodes: it changes with a file."""
    lines = []
    for path in paths:
        file = os.stat(os.path.join(root, path))
        lines.append(f"{path} {file.st_size} {file.st_mtime_ns} {file.st_ino}")
    return f"{len(paths)} ({run.names_hash(lines)})"


def folder_statistics(root, paths, features, args, device):
    """(number, mean, covariance) of the images `paths` below `root`; see `moments_of_files`.

    Those of a whole folder are kept in ROOT.NAME.npz (NAME is --cache), and are taken from there
    as long as no file changes. With --common it may be a part of the folder, and nothing is kept.
    """
    files = [os.path.join(root, path) for path in paths]
    what = Path(root).name
    if args.common:
        return moments_of_files(files, features, args, device, what)
    settings = features.settings | {"images": identity_of(root, paths)}
    folder = Path(root).resolve()
    cache = folder.with_name(f"{folder.name}.{args.cache}.npz")
    kept = cache.exists() and made_with(cache).get("images") == settings["images"]
    if parallel.everyone(kept)[0]:  # process 0 decides for all
        if parallel.rank() == 0:
            print(f"{root}: unchanged, its statistics are read from {cache}", file=sys.stderr)
        return read_statistics(cache, features)
    n, mu, sigma = moments_of_files(files, features, args, device, what)
    if parallel.rank() == 0:
        try:
            with run.atomic(cache) as temporary:
                np.savez(temporary, mu=mu, sigma=sigma, n=n, settings=json.dumps(settings))
        except OSError as error:
            run.warn(f"the statistics of {root} could not be kept: {error}")
    return n, mu, sigma


def made_with(path):
    """The settings that a file of statistics was made with; {} if it does not say."""
    try:
        with np.load(path) as file:
            return json.loads(str(file["settings"]))
    except (OSError, ValueError, KeyError):
        return {}


def read_statistics(path, features):
    """(number of images or None, mu, sigma) of an .npz file of ours or of pytorch-fid.

    Ours must have been made with the settings of `features`.
    """
    try:
        with np.load(path) as file:
            mu = file["mu"].astype(np.float64)
            sigma = file["sigma"].astype(np.float64)
            n = int(file["n"]) if "n" in file else None
            ours = "settings" in file
    except FileNotFoundError:
        run.fail(f"{path} does not exist.", 2)
    except (OSError, ValueError, KeyError) as error:
        run.fail(f"{path} is not a file of statistics with mu and sigma ({error}).")
    if not ours and features.name != "inception":
        run.fail(
            f"{path} does not say which features it holds (pytorch-fid's are Inception's): leave "
            "--features out.",
            2,
        )
    there = made_with(path)
    changed = []
    for key, value in features.settings.items():
        if there.get(key, value) != value:
            changed.append(f"{key} was {there[key]}, now {value}")
    if changed:
        run.fail(
            f"{path} holds statistics made with other settings ({'; '.join(changed)}): delete it, "
            "or choose another name with --cache."
        )
    width = features.width
    if mu.shape != (width,) or sigma.shape != (width, width):
        run.fail(f"{path} holds statistics of {mu.size} features, these have {width}.")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        run.fail(f"{path} holds values that are not finite: delete it.")
    return n, mu, sigma


def warn_if_few(n, features, what):
    """A warning where the covariance is singular. n: the number of images, None if unknown."""
    if n is not None and n < features.width:
        run.warn(
            f"{what} has {n} images, fewer than the {features.width} features: its covariance is "
            "singular and the Frechet distance unreliable (biased upwards)."
        )
