"""Model folders in the layouts of transformers and diffusers: found locally or on the hub, hashed, loaded strictly."""

import hashlib
from pathlib import Path

from models.old_run import fail, file_hash, read_json

PIPELINE_LAYOUT = (
    "a diffusers pipeline folder with model_index.json and *.safetensors weights, either of SDXL or "
    "Stable Diffusion (scheduler/ text_encoder/ tokenizer/ unet/ vae/, for SDXL also text_encoder_2/ "
    "tokenizer_2/) or unconditional (scheduler/ unet/)"
)
LATENT = {
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionImg2ImgPipeline",
}
PIXEL = ("DDPMPipeline", "DDIMPipeline")


def model_folder(model, marker, layout, download):
    """The local folder of `model`, itself a folder or a hub id such as "stabilityai/sdxl-turbo".

    `marker`: the file that such a folder has; `layout`: the phrase that describes it to the user;
    `download`: id -> folder, called for an id. It must itself fall back to its cache when offline."""
    folder = Path(model).expanduser()
    if (folder / marker).is_file():
        return folder
    if folder.exists() or model.count("/") != 1 or model.startswith((".", "~", "/")):
        fail(
            f"--model {model} {'has no ' + marker if folder.is_dir() else 'is not a folder'}. Expected: {layout}.",
            2,
        )
    try:
        return Path(download(model))
    except Exception as error:  # several HTTP libraries and a cache: no common class of errors
        fail(
            f"{model} is neither a local folder nor in the cache, and cannot be downloaded ({first_line(error)}). "
            f"Download it where there is a network and give the folder as --model. Expected: {layout}."
        )


def first_line(error):
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def folder_hash(folder):
    """sha256 over the names and contents of everything in a model folder that is loaded."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in Path(folder).rglob("*")
        if file.suffix in (".json", ".txt", ".safetensors", ".bin") and file.is_file()
    )
    names = [
        n
        for n in names
        if n != "args.json" and not any(part.startswith(".") for part in n.split("/"))
    ]
    return hashlib.sha256(
        "\n".join(f"{file_hash(Path(folder) / n)} {n}" for n in names).encode()
    ).hexdigest()


def network_dtype(device, precision):
    """The type of the weights: bf16 where the hardware computes in it, else float32, and never fp16. bf16 has
    the range of float32, so SDXL's VAE, whose activations overflow in fp16, is safe in it."""
    import torch

    from models.old_run import autocast

    with autocast(device, precision):
        return (
            torch.get_autocast_dtype(device.type)
            if torch.is_autocast_enabled(device.type)
            else torch.float32
        )


def load_strictly(cls, folder, **options):
    """cls.from_pretrained(folder), which by itself fills missing weights with random numbers and only warns."""
    try:
        module, info = cls.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged file shows as one of many classes of errors
        fail(f"{folder} cannot be loaded as {cls.__name__}: {first_line(error)}")
    wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        fail(
            f"{folder} lacks weights of {cls.__name__}, or has them in another shape: {', '.join(wrong[:8])}{more}."
        )
    return module.eval().requires_grad_(False)


def load_pipeline(model, device, precision, variant=None):
    """(diffusers pipeline on the device, its folder): image-to-image of SDXL or Stable Diffusion, or unconditional.

    `model`: folder or hub id; `variant`: None or "fp16", which weight files of the folder."""
    import diffusers
    import torch
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    folder = model_folder(
        model,
        "model_index.json",
        PIPELINE_LAYOUT,
        lambda name: diffusers.DiffusionPipeline.download(
            name, use_safetensors=True, variant=variant
        ),
    )
    index = read_json(folder / "model_index.json")
    kind, dtype = index.get("_class_name"), network_dtype(device, precision)
    if kind not in (*LATENT, *PIXEL):
        fail(f"--model {model} is a {kind}. Expected: {PIPELINE_LAYOUT}.", 2)
    parts = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or name in (
            "safety_checker",
            "feature_extractor",
            "image_encoder",
        ):
            continue
        library = {"diffusers": diffusers, "transformers": transformers}.get(entry[0])
        cls = getattr(library, entry[1] or "", None)
        if cls is None:
            fail(
                f"{folder}/model_index.json: {name} is {entry[1]} of {entry[0]}, not of diffusers or transformers."
            )
        if issubclass(cls, torch.nn.Module):
            type_ = {"torch_dtype" if library is diffusers else "dtype": dtype}
            parts[name] = load_strictly(
                cls, folder / name, use_safetensors=True, variant=variant, **type_
            )
        else:
            try:
                parts[name] = cls.from_pretrained(folder / name, local_files_only=True)
            except (OSError, ValueError) as error:
                fail(f"{folder / name} cannot be loaded as {entry[1]}: {first_line(error)}")
    options = {}
    if kind.startswith("StableDiffusionXL"):
        options = {
            "add_watermarker": False,  # it would mark every training image
            "requires_aesthetics_score": index.get("requires_aesthetics_score", False),
        }
    elif kind in LATENT:  # the safety checker blackens images, also innocent ones
        options = {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    scheduler = parts.get("scheduler")
    if "timestep_spacing" in getattr(scheduler, "config", {}):
        # "trailing" is SDXL-Turbo's: denoising starts at the level asked for. With the "leading" of other models a
        # single step would start at the lowest level there is, whatever the strength. DDPM wants all 1,000 steps.
        cls = (
            diffusers.DDIMScheduler
            if isinstance(scheduler, diffusers.DDPMScheduler)
            else type(scheduler)
        )
        parts["scheduler"] = cls.from_config(scheduler.config, timestep_spacing="trailing")
    try:
        # DDIMPipeline would replace the scheduler, LCM's say, by its own
        pipe = getattr(diffusers, LATENT.get(kind, "DDPMPipeline"))(**parts, **options)
    except TypeError as error:  # a part too many or too few
        fail(f"{folder}/model_index.json: {first_line(error)}. Expected: {PIPELINE_LAYOUT}.")
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    if device.type == "cuda":
        for name in {"unet", "vae"} & parts.keys():
            parts[name].to(memory_format=torch.channels_last)
    return pipe, folder
