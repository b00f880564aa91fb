"""Published weight files: where they are looked for, how they arrive, how they are loaded.

Files are data: nothing in a weight file is ever executed.
"""

import contextlib
import fcntl
import http.client
import os
import shutil
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch

from base import run


class Published(NamedTuple):
    """A file that its authors publish.

    digest: the first digits of its sha256, where the publisher states them.
    """

    folder: str
    file: str
    digest: str = ""


PUBLISHED = {
    "icgan": Published(
        "https://dl.fbaipublicfiles.com/ic_gan", "icgan_biggan_imagenet_res256.tar.gz"
    ),
    "swav": Published("https://dl.fbaipublicfiles.com/deepcluster", "swav_800ep_pretrain.pth.tar"),
    "maskgit-tokenizer": Published(
        "https://storage.googleapis.com/maskgit-public/checkpoints",
        "tokenizer_imagenet256_checkpoint",
    ),
    "maskgit-transformer": Published(
        "https://storage.googleapis.com/maskgit-public/checkpoints",
        "maskgit_imagenet256_checkpoint",
    ),
    "inception": Published(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16": Published("https://download.pytorch.org/models", "vgg16-397923af.pth", "397923af"),
}


def cache():
    """The folder of the published files: $GCL_WEIGHTS, else ~/.cache/gcl."""
    return Path(os.environ.get("GCL_WEIGHTS", Path.home() / ".cache" / "gcl"))


# ---------------------------------------------------------------- finding and fetching
def weight_file(name):
    """The path of a published file in the cache; it is downloaded if it is not there.

    Of several processes that want it at once, one downloads and the others wait. FILE.sha256 beside
    it holds the hash of what came first: a file that has changed since is refused.
    """
    published = PUBLISHED[name]
    path = cache() / published.file
    if not is_unchanged(path):
        with one_at_a_time(path):
            if not path.exists():
                download(published, path)
            if not is_unchanged(path):
                check_hash(published, path)
    return path


def hash_file(path):
    return path.with_name(f"{path.name}.sha256")


def is_unchanged(path):
    """Whether the file was checked before: its hash file then carries the same time stamp."""
    try:
        return path.stat().st_mtime_ns == hash_file(path).stat().st_mtime_ns
    except OSError:
        return False


@contextlib.contextmanager
def one_at_a_time(path):
    """Let one process in, the others wait, also those of other commands on this machine."""
    with contextlib.ExitStack() as stack:
        # It goes on without a lock where there is none: the folder may be read-only, and some
        # network file systems have no locks.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path.with_name(f".{path.name}.lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download(published, path):
    address = f"{published.folder}/{published.file}"
    print(f"downloading {address}", flush=True)
    try:
        hash_file(path).unlink(missing_ok=True)  # that of a file which was deleted
        with urllib.request.urlopen(address, timeout=30) as source, run.atomic(path) as temporary:
            with open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            arrived = temporary.stat().st_size
            announced = source.headers["Content-Length"]
            if announced and arrived != int(announced):
                run.fail(f"{address} broke off after {arrived} of {announced} bytes: try again.")
            if not run.file_hash(temporary).startswith(published.digest):
                run.fail(
                    f"{address} arrived damaged (its sha256 does not begin with "
                    f"{published.digest}): try again."
                )
    except (OSError, http.client.HTTPException) as error:
        run.fail(
            f"{published.file} is not in {path.parent}, and it cannot be fetched from {address} "
            f"({error}): download it elsewhere and put it there, or set $GCL_WEIGHTS to the folder "
            "that holds it."
        )


def check_hash(published, path):
    """Compare the file's sha256 with the publisher's and with the one noted beside it; note it."""
    stamp = path.stat().st_mtime_ns
    digest = run.file_hash(path)
    if not digest.startswith(published.digest):
        run.fail(
            f"{path} is damaged (its sha256 does not begin with {published.digest}, as the "
            "publisher says): delete it."
        )
    note = hash_file(path)
    if note.exists() and run.read_text(note).split()[:1] != [digest]:
        run.fail(
            f"{path} is not the file that it was (its sha256 is {digest}, {note.name} says "
            f"otherwise): delete it, or delete {note.name} if you changed the file yourself."
        )
    with contextlib.suppress(OSError):  # a shared folder may be read-only
        run.write_text(note, f"{digest}  {path.name}\n")
        os.utime(note, ns=(stamp, stamp))


# ---------------------------------------------------------------- loading
def load_strictly(module, state, what):
    """Load a state dict that has exactly the module's names and shapes, all values finite.

    Returns the module, in evaluation mode and without gradients. Anything else ends the run with a
    sentence that lists the names. what: the file, for that sentence.
    """
    ours = module.state_dict()
    other_shapes, not_finite = [], []
    for name in sorted(ours.keys() & state.keys()):
        value = state[name]
        if ours[name].shape != value.shape:
            other_shapes.append(f"{name} {tuple(value.shape)} instead of {tuple(ours[name].shape)}")
        elif not torch.isfinite(value).all():
            not_finite.append(name)
    another = "it is not a checkpoint of this model"
    refuse(what, "lacks", ours.keys() - state.keys(), another)
    refuse(what, "has unknown", state.keys() - ours.keys(), another)
    refuse(what, "has other shapes:", other_shapes, another)
    refuse(what, "has values that are not finite in", not_finite, "it is damaged")
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def refuse(what, problem, names, reason):
    """End the run if there are names: '<what> lacks a, b and 3 more: <reason>.'"""
    names = sorted(names)
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        run.fail(f"{what} {problem} {', '.join(names[:8])}{more}: {reason}.")
