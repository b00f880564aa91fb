"""All images of a folder decoded once: which of them cannot be read. The answer is kept."""

import hashlib
import os
from functools import partial
from pathlib import Path

import torch

from base import levels, parallel, run
from base.weights import cache
from evaluate.frechet import identity_of
from images.files import find_images, read_ahead
from images.read import UnreadableImage, read_image

BATCH = 64  # images that a process is handed at a time


def identity(root, paths):
    """What the answer depends on: it changes with a file, and with how files are read."""
    return f"{identity_of(root, paths)}, levels {levels.levels()}, bands {levels.bands()}"


def kept_file(root):
    """Where the answer for a folder is kept, among the published files."""
    name = os.fsencode(Path(root).resolve())
    return cache() / f".check-{hashlib.blake2b(name, digest_size=8).hexdigest()}.json"


def kept_answer(root, paths):
    """{path: why} of the images that cannot be read, from an earlier check of these very files;
    None where there was none.
    """
    file = kept_file(root)
    if not file.exists():
        return None
    kept = run.read_json(file)
    return kept["unreadable"] if kept["images"] == identity(root, paths) else None


def read_some(root, paths):
    """(number of paths, {path: why} of those that cannot be read)."""
    failed = {}
    for path in paths:
        try:
            read_image(os.path.join(root, path))
        except UnreadableImage as error:
            failed[path] = str(error)
    return len(paths), failed


def check_folder(root, workers):
    """({path: why} of the images that cannot be read, the number of images); every process."""
    paths = find_images(root)
    kept = parallel.everyone(kept_answer(root, paths))[0]
    if kept is not None:
        return kept, len(paths)
    batches = [paths[first : first + BATCH] for first in range(0, len(paths), BATCH)]
    mine = batches[parallel.rank() :: parallel.world()]
    failed = {}
    with run.progress(len(paths), f"reading {root}") as bar:
        bar.unit = " images"
        for number, found in read_ahead(
            mine, partial(read_some, root), workers, torch.device("cpu")
        ):
            failed |= found
            bar.update(min(number * parallel.world(), len(paths) - bar.n))
    for part in parallel.everyone(failed):
        failed |= part
    if parallel.rank() == 0:
        try:
            run.write_json(
                kept_file(root),
                {"folder": str(root), "images": identity(root, paths), "unreadable": failed},
            )
        except OSError as error:
            run.warn(f"the answer is not kept: {error}")
    return failed, len(paths)
