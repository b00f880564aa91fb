"""Model folders in Hugging Face's layout: found locally or on the hub, hashed, loaded strictly."""

import hashlib
from pathlib import Path

from models.run import fail, file_hash


def model_folder(model, marker, layout, download):
    """The local folder of `model`, itself a folder or a hub id such as "stabilityai/sdxl-turbo".

    `marker`: the file that such a folder has; `layout`: the sentence that describes it to the user;
    `download`: id -> folder, called for an id. It must itself fall back to its cache when offline."""
    folder = Path(model).expanduser()
    if (folder / marker).is_file():
        return folder
    if folder.exists() or model.count("/") != 1 or model.startswith((".", "~", "/")):
        fail(f"--model {model} {'has no ' + marker if folder.is_dir() else 'is not a folder'}. Expected: {layout}.", 2)
    try:
        return Path(download(model))
    except Exception as error:  # three HTTP libraries and a cache: no common class of errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fail(f"{model} is neither a local folder nor in the local cache, and cannot be downloaded ({reason[:160]}). "
             f"Download it where there is a network and give the folder as --model. Expected: {layout}.")


def folder_hash(folder):
    """sha256 over the names and contents of everything in a model folder that is loaded."""
    files = [f for f in Path(folder).rglob("*") if f.suffix in (".json", ".txt", ".safetensors", ".bin") and f.is_file()]
    names = sorted(f.relative_to(folder).as_posix() for f in files)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return hashlib.sha256("\n".join(f"{file_hash(Path(folder) / n)} {n}" for n in names).encode()).hexdigest()


def load_strictly(cls, folder, **options):
    """cls.from_pretrained(folder), which by itself fills missing weights with random numbers and only warns."""
    try:
        module, info = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except Exception as error:  # a damaged file shows as one of many classes of errors
        fail(f"{folder} cannot be loaded as {cls.__name__}: {str(error).strip().splitlines()[0][:300]}")
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        fail(f"{folder} lacks weights of {cls.__name__}, or has them in another shape: {', '.join(wrong[:8])}{more}.")
    return module.eval().requires_grad_(False)
