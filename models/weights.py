"""Published weight files: where they are looked for, how they are downloaded and read. Files are data."""

import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import torch

from models import maskgit, vqgan
from models.flax_files import read_flax, tokenizer_from_flax, transformer_from_flax
from models.old_run import atomic, fail, file_hash, load

# name -> (address, file name in the cache, first digits of its sha256 where the publisher states them)
PUBLISHED = {
    "icgan": (
        "https://dl.fbaipublicfiles.com/ic_gan/icgan_biggan_imagenet_res256.tar.gz",
        "icgan_biggan_imagenet_res256.tar.gz",
        "",
    ),
    "swav": (
        "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
        "swav_800ep_pretrain.pth.tar",
        "",
    ),
    "maskgit-tokenizer": (
        "https://storage.googleapis.com/maskgit-public/checkpoints/tokenizer_imagenet256_checkpoint",
        "tokenizer_imagenet256_checkpoint",
        "",
    ),
    "maskgit-transformer": (
        "https://storage.googleapis.com/maskgit-public/checkpoints/maskgit_imagenet256_checkpoint",
        "maskgit_imagenet256_checkpoint",
        "",
    ),
    "inception": (
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16": (
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "vgg16-397923af.pth",
        "397923af",
    ),
}


def cache():
    return Path(os.environ.get("GCL_WEIGHTS", Path.home() / ".cache" / "gcl"))


def weight_file(name):
    """Path of a published weight file: in $GCL_WEIGHTS (or ~/.cache/gcl), else downloaded to there."""
    address, file, digest = PUBLISHED[name]
    path = cache() / file
    if path.exists():
        return path
    try:
        print(f"downloading {address}", flush=True)
        with urllib.request.urlopen(address, timeout=30) as source, atomic(path) as temporary:
            with open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            if digest and not file_hash(temporary).startswith(digest):
                fail(
                    f"{address} arrived damaged (its sha256 does not begin with {digest}): try again."
                )
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        fail(
            f"{file} is not in {cache()} and {address} cannot be reached ({error}): download it elsewhere and put "
            f"it there, or set $GCL_WEIGHTS to the folder that holds it."
        )
    return path


def load_strictly(module, state, what):
    """Load strictly; else one sentence that lists the names."""
    ours = module.state_dict()
    missing, unknown = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(ours[k].shape)}"
        for k in ours.keys() & state.keys()
        if ours[k].shape != state[k].shape
    ]
    for problem, names in (
        ("lacks", missing),
        ("has unknown", unknown),
        ("has other shapes:", shapes),
    ):
        if names:
            fail(
                f"{what} {problem} {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}: "
                "it is not a checkpoint of this model."
            )
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def load_maskgit(where=None):
    """(tokenizer, transformer or None, {file: sha256}); tokenizer.image_size is the side in pixels.

    where: a run folder of 00_train_generator.py, or a folder with the two published files; None: these from
    the cache or the net."""
    tokenizer_name, transformer_name = (
        PUBLISHED["maskgit-tokenizer"][1],
        PUBLISHED["maskgit-transformer"][1],
    )
    if where and (Path(where) / "generator.pth").exists():
        path = Path(where) / "generator.pth"
        saved = load(path)
        if not isinstance(saved, dict) or "tokenizer" not in saved:
            fail(f"{path} holds no tokenizer: give a run folder of 00_train_generator.py.")
        tokenizer = load_strictly(
            vqgan.VQGAN(**saved["tokenizer_config"]), saved["tokenizer"], path
        )
        tokenizer.image_size, transformer = saved["size"], None
        if "transformer" in saved:
            transformer = load_strictly(
                maskgit.MaskGIT(**saved["transformer_config"]), saved["transformer"], path
            )
        return tokenizer, transformer, {path.name: file_hash(path)}
    if where:
        files = [Path(where) / tokenizer_name, Path(where) / transformer_name]
        if not all(file.exists() for file in files):
            fail(
                f"--weights {where} holds neither generator.pth (a finished run of 00_train_generator.py) nor "
                f"{tokenizer_name} and {transformer_name} (the published files)."
            )
    else:
        files = [weight_file("maskgit-tokenizer"), weight_file("maskgit-transformer")]
    try:
        config, state = tokenizer_from_flax(read_flax(files[0]))
        codes = config["codes"]
        transformer_config, transformer_state = transformer_from_flax(read_flax(files[1]), codes)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        fail(
            f"{files[0].parent}: {error} is missing or of another shape: these are not MaskGIT's two checkpoints."
        )
    with torch.device("meta"):
        tokenizer, transformer = vqgan.VQGAN(**config), maskgit.MaskGIT(**transformer_config)
    tokenizer.image_size = round(transformer_config["tokens"] ** 0.5) * tokenizer.patch
    tokenizer.to_empty(device="cpu")
    transformer.to_empty(device="cpu")
    return (
        load_strictly(tokenizer, state, files[0]),
        load_strictly(transformer, transformer_state, files[1]),
        {file.name: file_hash(file) for file in files},
    )


find, fill = weight_file, load_strictly  # old names
