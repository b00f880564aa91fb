"""Diffusion-based augmentation (dissertation, section 4.4): add noise to strength alpha, denoise.

Two kinds of model, as folders of diffusers (https://github.com/huggingface/diffusers): text-conditioned
latent ones (SDXL-Turbo, SDXL, Stable Diffusion), driven by captions, and unconditional ones in pixel space
(00_train_diffusion.py makes them). Diffusers' pipelines and schedulers compute; here is what goes in and out.
"""

import argparse
import json
from pathlib import Path, PurePosixPath

from models.hub import PIPELINE_LAYOUT, folder_hash, load_pipeline
from models.old_run import count, fail, file_hash, image_seed, share

FIGURE_28 = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def diffusion_arguments(p):
    p.add_argument(
        "--model", default="stabilityai/sdxl-turbo", help=f"hub id, or {PIPELINE_LAYOUT}"
    )
    p.add_argument(
        "--captions",
        metavar="FILE",
        help="captions.jsonl of 01_caption.py, for a model that takes text",
    )
    p.add_argument(
        "--no-caption", action="store_true", help="give such a model an empty prompt instead"
    )
    p.add_argument(
        "--strength",
        type=share,
        nargs="+",
        default=[0.2],
        metavar="ALPHA",
        help="share of the noise schedule the image is sent back through; 0.2 was best, above 0.3 hurt "
        "(Figure 30). 0: the VAE's reconstruction, the control. Several make OUT/strengthALPHA/view0 each. "
        "What is reached is int(steps x alpha) / steps, 0.25 at alpha 0.3 and 0.33 at 0.4: the level in "
        "augment.json",
    )
    p.add_argument(
        "--steps",
        type=count,
        help="of the whole schedule; int(steps x alpha) of them are run, at least "
        "one. Default: the fewest, 1/alpha rounded up, which is what distilled models such as SDXL-Turbo "
        "or LCM want; 50 for an unconditional model with another scheduler",
    )
    p.add_argument(
        "--size",
        type=count,
        help="side in pixels at which the model works (default: the model's own, 512 "
        "for SDXL-Turbo); images are resized and centre-cropped to it",
    )
    p.add_argument(
        "--store-size",
        type=count,
        default=256,
        help="side of the stored images; never more than --size",
    )
    p.add_argument("--variant", help="fp16: the weight files *.fp16.safetensors, half the download")
    p.add_argument(
        "--vae-slicing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the VAE takes one image at a time: SDXL-Turbo at 512 px and batch 32 then needs about 11 GB "
        "in bf16 (an estimate; 26 GB without, so --batch-size 16), at hardly any cost in time",
    )
    p.add_argument(
        "--vae-tiling",
        action="store_true",
        help="the VAE takes an image in tiles: for --size over 1024",
    )


# ---------------------------------------------------------------- captions
def read_captions(file):
    """{path: caption} of a caption file; every broken line is one sentence with its number."""
    captions = {}
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as error:
        fail(f"--captions {file} cannot be read ({error.strerror}): 01_caption.py writes it.", 2)
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            fail(f"{where} is not UTF-8: convert the file, or write it again with 01_caption.py.")
        except json.JSONDecodeError:
            fail(f'{where} is not JSON: expected {{"path": "CLASS/img.jpg", "caption": "..."}}.')
        if not isinstance(record, dict) or not all(
            isinstance(record.get(key), str) for key in ("path", "caption")
        ):
            fail(f'{where} has no "path" or no "caption" in the form of a text.')
        path = PurePosixPath(record["path"])
        if path.is_absolute() or ".." in path.parts:
            fail(
                f"{where} names {path}, which is outside the data folder: paths are relative to --data."
            )
        if record["path"] in captions:
            fail(f"{where} names {path} a second time: keep one of the two lines.")
        captions[record["path"]] = record["caption"]
    return captions


def captions_of(args):
    """{path: caption} for every image of --data; with --no-caption None."""
    from models.images import find_images

    if args.no_caption == bool(args.captions):
        fail(
            f"{args.model} takes a text: give --captions FILE, which python 01_caption.py --data {args.data} --out "
            "FILE writes, or else --no-caption for an empty prompt.",
            2,
        )
    if args.no_caption:
        return None
    captions, paths = read_captions(args.captions), find_images(args.data)
    missing = [path for path in paths if path not in captions]
    if missing:
        fail(
            f"{args.captions} lacks {len(missing)} of the {len(paths)} images, the first is {missing[0]}: complete "
            f"it with python 01_caption.py --data {args.data} --out {args.captions}"
        )
    return captions


# ---------------------------------------------------------------- strength and steps
def fewest_steps(strength):
    """The smallest N with strength x N >= 1, in the floating-point product that diffusers computes."""
    n = max(1, int(1 / strength) - 1)
    while strength * n < 1:
        n += 1
    return n


def plan(strength, scheduler, steps=None):
    """What a strength comes to: {"steps", "steps_run", "timestep", "level"}; level is the share of the training
    schedule's timesteps at which denoising starts."""
    if strength == 0:
        return {"steps": 0, "steps_run": 0, "timestep": None, "level": 0.0}
    steps, trained = steps or fewest_steps(strength), scheduler.config.num_train_timesteps
    if steps > trained:
        fail(
            f"--strength {strength:g} needs {steps} steps, but the model's schedule has {trained}.",
            2,
        )
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:  # LCM's schedule has fewer
        fail(f"--strength {strength:g} with {steps} steps: {str(error).splitlines()[0]}", 2)
    run = int(steps * strength)
    timestep = float(scheduler.timesteps[(steps - run) * scheduler.order])
    return {
        "steps": steps,
        "steps_run": run,
        "timestep": timestep,
        "level": (timestep + 1) / trained,
    }


# ---------------------------------------------------------------- the model
def latent_model(pipe, captions):
    """prepare(x, paths, generators), redraw(prepared, strength, plan, generators) of a text-conditioned model.

    Both compute what pipe(prompt, image, strength, num_inference_steps, guidance_scale=0, generator=generators)
    does, with the same draws; the image and its caption are encoded once for all strengths."""
    import torch

    vae, scale = pipe.vae, pipe.vae.config.scaling_factor
    shift = (
        torch.tensor(getattr(vae.config, "latents_mean", None) or [0.0])
        .view(1, -1, 1, 1)
        .to(vae.device, vae.dtype)
    )
    spread = (
        torch.tensor(getattr(vae.config, "latents_std", None) or [1.0])
        .view(1, -1, 1, 1)
        .to(vae.device, vae.dtype)
    )

    def prepare(x, paths, generators):
        latents = (
            (vae.encode(x.to(vae.dtype)).latent_dist.sample(generators) - shift) * scale / spread
        )
        prompts = [captions[path] if captions else "" for path in paths]
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        encoded = pipe.encode_prompt(
            prompts, device=vae.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return latents, {
            name: value for name, value in zip(names, encoded, strict=False) if value is not None
        }

    def redraw(prepared, strength, steps, generators):
        latents, prompt = prepared
        if strength:
            latents = pipe(
                image=latents,
                strength=strength,
                num_inference_steps=steps["steps"],
                guidance_scale=0.0,
                generator=generators,
                output_type="latent",
                **prompt,
            ).images
        return vae.decode(latents * spread / scale + shift).sample

    return prepare, redraw


def pixel_model(pipe):
    """The same for an unconditional model, which works on the pixels themselves."""
    from diffusers.utils.torch_utils import randn_tensor

    unet, scheduler = pipe.unet, pipe.scheduler

    def redraw(x, strength, steps, generators):
        if not strength:
            return x
        scheduler.set_timesteps(steps["steps"])
        begin = (steps["steps"] - steps["steps_run"]) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        timesteps = scheduler.timesteps[begin:]
        noise = randn_tensor(x.shape, generator=generators, device=x.device, dtype=x.dtype)
        x = scheduler.add_noise(x, noise, timesteps[:1].repeat(len(x)))
        for t in timesteps:
            output = unet(scheduler.scale_model_input(x, t).to(unet.dtype), t).sample.to(x.dtype)
            x = scheduler.step(output, t, x, generator=generators).prev_sample
        return x

    return (lambda x, paths, generators: x), redraw


def diffusion(args, device):
    """The strategy of 02_augment.py: one view for each strength, of the same noise (`Strategy` in augmenters.py)."""
    import diffusers
    import torch
    import torch.nn.functional as F

    from models.augmenters import Strategy
    from models.images import read_image, square

    strengths = list(dict.fromkeys(args.strength))
    for strength in strengths:
        if strength and args.steps and int(args.steps * strength) < 1:
            fail(
                f"--steps {args.steps} is too few for --strength {strength:g}: strength x steps must be at least 1, "
                f"so use --steps {fewest_steps(strength)} or more, or leave --steps out.",
                2,
            )
    pipe, folder = load_pipeline(args.model, device, args.precision, args.variant)
    latent = hasattr(pipe, "vae")
    if latent:
        pipe.vae.use_slicing, pipe.vae.use_tiling = args.vae_slicing, args.vae_tiling
    if not latent and (args.captions or args.no_caption):
        fail(
            f"--captions, --no-caption: {args.model} is unconditional and takes no text; leave them out.",
            2,
        )
    captions = captions_of(args) if latent else None

    # ---- sizes and steps
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1) if latent else 1
    cell = factor if latent else 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    own = pipe.unet.config.sample_size
    size = args.size or (own if isinstance(own, int) else own[0]) * factor
    stored = min(args.store_size, size)
    if size % cell:
        fail(f"--size {size} is not a multiple of {cell}, as this model needs.", 2)
    if not latent and pipe.unet.config.in_channels != 3:
        fail(
            f"--model {args.model} draws images of {pipe.unet.config.in_channels} channels, not RGB.",
            2,
        )
    fewest = latent or isinstance(pipe.scheduler, diffusers.LCMScheduler)

    def plan_of(strength):
        return plan(
            strength,
            pipe.scheduler,
            args.steps or (None if fewest else max(50, fewest_steps(strength or 1))),
        )

    prepare, redraw = latent_model(pipe, captions) if latent else pixel_model(pipe)

    # ---- generation
    @torch.inference_mode()
    def draw(images, paths, plans):
        x = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
        generators = [
            torch.Generator().manual_seed(image_seed(args.seed, path, 0)) for path in paths
        ]
        prepared, views = prepare(x, paths, generators), []
        states = [generator.get_state() for generator in generators]
        for strength, steps in plans.items():
            for generator, state in zip(
                generators, states, strict=True
            ):  # the same noise at every strength
                generator.set_state(state)
            y = redraw(prepared, strength, steps, generators).float()
            if not y.isfinite().all():
                fail(
                    f"{args.model} gave values that are no numbers at strength {strength:g}: try --precision fp32."
                )
            if stored != size:
                y = F.interpolate(y, size=(stored, stored), mode="bicubic", antialias=True)
            views.append(((y + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu())
        return torch.stack(views)

    def sheet(images, paths):  # Figure 28
        shown = [
            s
            for s in sorted({*FIGURE_28, *strengths})
            if not s or not args.steps or int(args.steps * s) >= 1
        ]
        views = draw(images, paths, {strength: plan_of(strength) for strength in shown}).numpy()
        rows = [[square(image, stored), *views[:, i]] for i, image in enumerate(images.numpy())]
        return (
            ["original", *(f"{s:g}" for s in shown)],
            rows,
            [captions[path] for path in paths] if captions else (),
        )

    plans = {strength: plan_of(strength) for strength in strengths}
    about = {
        "model_sha256": folder_hash(folder),
        "pipeline": type(pipe).__name__,
        "size": size,
        "scheduler": type(pipe.scheduler).__name__,
        "strengths": {f"{s:g}": steps for s, steps in plans.items()},
        "captions_sha256": file_hash(args.captions) if captions else None,
        "diffusers": diffusers.__version__,
        "parameters": sum(
            p.numel()
            for part in pipe.components.values()
            if isinstance(part, torch.nn.Module)
            for p in part.parameters()
        ),
    }
    views = [f"strength{s:g}/view0" for s in strengths] if len(strengths) > 1 else ["view0"]
    return Strategy(
        views,
        lambda path: square(read_image(path), size),
        lambda images, paths: draw(images, paths, plans),
        stored,
        about,
        sheet,
    )
