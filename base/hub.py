"""Model folders in the layouts of transformers and diffusers: found, hashed and loaded strictly."""

import hashlib
import importlib
from pathlib import Path

from base import parallel, run

PIPELINE_LAYOUT = (
    "a diffusers pipeline folder with model_index.json and *.safetensors weights, either of SDXL "
    "or Stable Diffusion (scheduler/ text_encoder/ tokenizer/ unet/ vae/, for SDXL also "
    "text_encoder_2/ tokenizer_2/) or unconditional (scheduler/ unet/)"
)
LOADED = (".json", ".txt", ".safetensors", ".bin")  # how the files end that a model is loaded from


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
    """The first line of an exception's text, at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


# ---------------------------------------------------------------- folders
def model_folder(model, marker, layout, download):
    """The local folder of `model`: itself a folder, or a hub id such as "stabilityai/sdxl-turbo".

    marker: the file that such a folder has. layout: the phrase that describes it to the user.
    download: function from an id to a folder. It must look into its cache itself when offline.
    """
    folder = Path(model).expanduser()
    if (folder / marker).is_file():
        return folder
    looks_local = model.count("/") != 1 or model.startswith((".", "~", "/"))
    if folder.is_dir():
        run.fail(f"--model {model} has no {marker}. Expected: {layout}.", 2)
    if folder.exists() or looks_local:
        run.fail(f"--model {model} is not a folder. Expected: {layout}.", 2)
    try:
        return Path(download(model))
    except Exception as error:  # several HTTP libraries and a cache have no common class of errors
        run.fail(
            f"{model} is neither a local folder nor in the cache, and cannot be downloaded "
            f"({first_line(error)}). Download it where there is a network and give the folder as "
            f"--model. Expected: {layout}."
        )


def folder_hash(folder):
    """sha256 over the names and contents of the files that a model in this folder is loaded from.

    One process of each machine reads the files: they may be 14 GB. Every process must call this.
    """
    digest = None
    if parallel.local_rank() == 0:
        lines = [f"{run.file_hash(Path(folder) / name)} {name}" for name in loaded_files(folder)]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    first_of_machine = parallel.rank() - parallel.local_rank()
    return parallel.everyone(digest)[first_of_machine]


def loaded_files(folder):
    """Sorted relative names of the files below a folder that a model may be loaded from."""
    names = []
    for file in Path(folder).rglob("*"):
        name = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        ours = name == "args.json"  # extras/train_diffusion.py leaves it beside the model
        if file.suffix in LOADED and file.is_file() and not hidden and not ours:
            names.append(name)
    return sorted(names)


# ---------------------------------------------------------------- networks
def in_turn(load):
    """load(), in one process of each machine after the other.

    A network passes through the computer's memory on its way to the GPU. So it holds one copy at a
    time, not one for each process. Every process must call this.
    """
    for turn in range(parallel.local_world()):
        if turn == parallel.local_rank():
            loaded = load()
        parallel.barrier()
    return loaded


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


def load_network(cls, folder, **options):
    """cls.from_pretrained(folder) of transformers or diffusers, frozen and in evaluation mode.

    By itself it would fill missing weights with random numbers and only warn. Ends the run where
    weights are missing, have another shape or are not finite.
    """
    try:
        network, info = cls.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged file shows as one of many classes of errors
        run.fail(f"{folder} cannot be loaded as {cls.__name__}: {first_line(error)}")
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if wrong:
        names = ", ".join(wrong[:8])
        if len(wrong) > 8:
            names += f" and {len(wrong) - 8} more"
        run.fail(
            f"{folder} lacks weights of {cls.__name__}, or has them in another shape: {names}."
        )
    for name, weight in network.named_parameters():
        if not weight.isfinite().all():
            run.fail(f"{folder}: {name} holds values that are not finite: download it again.")
    return network.eval().requires_grad_(False)
