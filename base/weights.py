"""Weights of networks: published files and model folders are fetched, hashed and loaded strictly.

Used by whatever needs a network that others have trained. Files are data: nothing in a weight file
is ever executed. torch is imported where it is needed: --help of the stages must not wait for it.
"""

import hashlib
import http.client
import importlib
import os
import re
import tempfile
import urllib.request
from pathlib import Path

from base import parallel, run

LOADED = (".json", ".txt", ".safetensors", ".bin")  # how the files end that a model is loaded from


# ---------------------------------------------------------------- published files
PUBLISHED = {
    "icgan": "https://dl.fbaipublicfiles.com/ic_gan/icgan_biggan_imagenet_res256.tar.gz",
    "swav": "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
    "maskgit-tokenizer": "https://storage.googleapis.com/maskgit-public/checkpoints/"
    "tokenizer_imagenet256_checkpoint",
    "maskgit-transformer": "https://storage.googleapis.com/maskgit-public/checkpoints/"
    "maskgit_imagenet256_checkpoint",
    "inception": "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
}

SECOND = {  # where the same file lies as well; docs/differences.md names what else there is
    "icgan": "https://huggingface.co/facebook/ic_gan/resolve/"
    "8f128a02e73ffc8233c410ef158b367582b3f8fc/pretrained_models_path/"
    "icgan_biggan_imagenet_res256.tar.gz"
}


def cached(name):
    """The path that a published file has in the cache: in $GCL_WEIGHTS, else in ~/.cache/gcl."""
    folder = os.environ.get("GCL_WEIGHTS") or Path.home() / ".cache" / "gcl"
    return Path(folder, PUBLISHED[name].rpartition("/")[2])


def weight_file(name, otherwise=""):
    """The path of a published file in the cache; it is downloaded if it is not there.

    It appears under its name when it is whole. otherwise: what else a user without it can do.
    """
    path, tried = cached(name), []
    if path.exists():
        return checked(path)
    for address in filter(None, (PUBLISHED[name], SECOND.get(name))):
        print(f"downloading {address}", flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
                arrived = Path(folder, path.name)
                urllib.request.urlretrieve(address, arrived)
                return checked(arrived).replace(path)
        except (OSError, http.client.HTTPException) as error:
            tried.append(f"{address} ({error})")
    run.fail(
        f"{path.name} is not in {path.parent}, and it cannot be fetched from {' or '.join(tried)}: "
        "download it elsewhere and put it there, or set $GCL_WEIGHTS to the folder that holds "
        f"it{otherwise}."
    )


def checked(path):
    """The path of a file. In x-0123abcd.pth its publisher states how its sha256 begins."""
    stated = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if stated and not run.file_hash(path).startswith(stated[1]):
        run.fail(
            f"{path} is damaged (its sha256 does not begin with {stated[1]}, as the publisher "
            "says): delete it if it is there, and try again."
        )
    return path


# ---------------------------------------------------------------- model folders
def library(name):
    """The package `name`, quiet; one sentence where it is not installed, as few stages need it."""
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        run.fail(
            f"This command needs the package {name}, which cannot be imported ({first_line(error)})"
            f": pip install {name}"
        )
    package.utils.logging.disable_progress_bar()
    package.utils.logging.set_verbosity_error()
    return package


def first_line(error):
    """The class and the first line of an exception, at most 200 characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def model_folder(model, marker, layout, download):
    """The local folder of `model`: itself a folder, or a hub id such as "stabilityai/sdxl-turbo".

    marker: the file that such a folder has. layout: the phrase that describes it to the user.
    download: function from an id to a folder. It must look into its cache itself when offline.
    """
    folder = Path(model).expanduser()
    if (folder / marker).is_file():
        return folder
    if folder.exists() or model.count("/") != 1 or model.startswith((".", "~", "/")):
        run.fail(f"--model {model} is not a folder, or has no {marker}. Expected: {layout}.", 2)
    try:
        return Path(download(model))
    except Exception as error:  # several HTTP libraries and a cache have no common class of errors
        run.fail(
            f"{model} is neither a local folder nor in the hub's cache, and the hub does not give "
            f"it ({first_line(error)}): fetch it where there is a network (bash recipes/weights.sh "
            f"does) or give a folder as --model. Expected: {layout}."
        )


def folder_hash(folder):
    """sha256 over the names and contents of the files that a model in this folder is loaded from.

    One process of each machine reads the files: they may be 14 GB. Every process must call this.
    """
    digest = None
    if parallel.local_rank() == 0:
        hashes = {}
        for file in folder.rglob("*"):
            name = file.relative_to(folder).as_posix()
            passed_over = "/." in f"/{name}" or name == "args.json"  # ours stands beside a model
            if file.suffix in LOADED and file.is_file() and not passed_over:
                hashes[name] = run.file_hash(file)
        lines = "\n".join(f"{hashes[name]} {name}" for name in sorted(hashes))
        digest = hashlib.sha256(lines.encode()).hexdigest()
    return parallel.everyone(digest)[parallel.rank() - parallel.local_rank()]


def network_dtype(device, precision):
    """The number format of a network's weights: bf16 where the hardware computes in it, or float32.

    It is never fp16. SDXL's VAE has activations that overflow in fp16, and bf16 has the range of
    float32.
    """
    import torch

    with run.autocast(device, precision):
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
    return torch.float32


# ---------------------------------------------------------------- loading
def from_pretrained(cls, folder, **options):
    """cls.from_pretrained(folder) of transformers or diffusers, from the folder's files alone."""
    try:
        return cls.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # a damaged file shows as one of many classes of errors
        run.fail(f"{folder} cannot be loaded as {cls.__name__}: {first_line(error)}")


def load_network(cls, folder, **options):
    """A network of transformers or diffusers from its folder, frozen and in evaluation mode.

    By itself from_pretrained would fill missing weights with random numbers and only warn. Ends the
    run where weights are missing, have another shape or are not finite.
    """
    network, info = from_pretrained(cls, folder, output_loading_info=True, **options)
    wrong = map(str, [*info["missing_keys"], *info["mismatched_keys"]])
    problem = f"lacks weights of {cls.__name__}, or has them in another shape:"
    refuse(folder, problem, wrong, "download it again")
    refuse_not_finite(folder, network.named_parameters())
    return network.eval().requires_grad_(False)


def load_strictly(module, state, what):
    """Load a state dict that has exactly the module's names and shapes, all values finite.

    Returns the module, in evaluation mode and without gradients. Anything else ends the run with a
    sentence that lists the names. what: the file, for that sentence.
    """
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        words = " ".join(str(error).split())
        run.fail(f"{what} is not a checkpoint of this model: {words[:400]}")
    refuse_not_finite(what, state.items())
    return module.eval().requires_grad_(False)


def refuse_not_finite(what, weights):
    """weights: pairs of a name and a tensor."""
    names = [name for name, weight in weights if not weight.isfinite().all()]
    refuse(what, "has values that are not finite in", names, "it is damaged")


def refuse(what, problem, names, reason):
    """End the run if there are names: '<what> lacks a, b and 3 more: <reason>.'"""
    names = sorted(names)
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        run.fail(f"{what} {problem} {', '.join(names[:8])}{more}: {reason}.")
