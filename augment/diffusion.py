"""The strategy `diffusion`: add noise to an image up to a strength alpha, and denoise it again.

Dissertation, section 4.4. Here are the flags, the captions and the strategy;
augment/diffusers_pipeline.py holds the model.
"""

import argparse
import functools
import json
from pathlib import Path, PurePosixPath

from base import run
from base.hub import PIPELINE_LAYOUT

FIGURE_28 = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # the strengths that the dissertation's figure shows
UNCONDITIONAL_STEPS = 50  # of the whole schedule; our choice for models that are not distilled


def diffusion_arguments(p):
    """Add the strategy's flags to a parser. Nothing heavy is imported."""
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
        type=run.fraction,
        nargs="+",
        default=[0.2],
        metavar="ALPHA",
        help="share of the noise schedule that the image is sent back through. 0.2 was best, above "
        "0.3 hurt (Figure 30). 0 is the VAE's reconstruction, the control. Each strength makes "
        "OUT/strengthALPHA/view0, and a later command can add further ones. The level that is "
        "reached is int(steps x alpha) / steps: with the fewest steps it is 0.25 at alpha 0.3 and "
        "0.33 at 0.4. samples.png shows another level in brackets",
    )
    p.add_argument(
        "--steps",
        type=run.positive,
        help="steps of the whole schedule; int(steps x alpha) of them are computed, at least one. "
        "Without this flag they are the fewest, 1/alpha rounded up, as distilled models such as "
        f"SDXL-Turbo or LCM want it, and {UNCONDITIONAL_STEPS} for another unconditional model",
    )
    p.add_argument(
        "--size",
        type=run.positive,
        help="side in pixels at which the model works; images are resized and cropped to it. "
        "Without this flag it is the model's own, 512 for SDXL-Turbo",
    )
    p.add_argument(
        "--store-size",
        type=run.positive,
        default=256,
        help="side of the stored images in pixels; never more than --size",
    )
    p.add_argument(
        "--variant",
        help="fp16 reads the weight files *.fp16.safetensors where the model has them (SDXL-Turbo "
        "has): half the download and half the computer's memory while loading, 7 instead of 14 GB; "
        "the model still computes in --precision",
    )
    p.add_argument(
        "--vae-slicing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the VAE takes one image at a time. By an estimate SDXL-Turbo at 512 px and batch 32 "
        "needs about 11 GB in bf16 with it, at hardly any cost in time, and 26 GB without (use "
        "--batch-size 16 then)",
    )
    p.add_argument(
        "--vae-tiling",
        action="store_true",
        help="the VAE takes an image in tiles, for --size over 1024",
    )


# ---------------------------------------------------------------- captions
def read_captions(file):
    """{path: caption} of a caption file. A broken line ends the run with its number."""
    if not Path(file).is_file():
        run.fail(
            f"--captions {file} cannot be read: there is no such file. 01_caption.py writes it.", 2
        )
    captions = {}
    lines = run.read_text(file).split("\n")  # splitlines would cut at rare characters in captions
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        path, caption = read_caption(line, f"{file}, line {number}")
        if path in captions:
            run.fail(
                f"{file}, line {number} names {path} a second time: keep one of the two lines."
            )
        captions[path] = caption
    return captions


def read_caption(line, where):
    """(path, caption) of one line; `where` names the line in an error."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        run.fail(f'{where} is not JSON: expected {{"path": "CLASS/img.jpg", "caption": "..."}}.')
    if not isinstance(record, dict):
        record = {}
    path = record.get("path")
    caption = record.get("caption")
    if not isinstance(path, str) or not isinstance(caption, str):
        run.fail(f'{where} has no "path" or no "caption" in the form of a text.')
    try:
        caption.encode()
    except UnicodeEncodeError:
        run.fail(f"{where} is not UTF-8: convert the file, or write it again with 01_caption.py.")
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        run.fail(
            f"{where} names {path}, which is outside the data folder: paths are relative to --data."
        )
    return path, caption


def captions_of(args):
    """{path: caption} for every image of --data, or None with --no-caption."""
    from images.files import find_images

    if args.no_caption == bool(args.captions):
        run.fail(
            f"{args.model} takes a text: give --captions FILE, which python 01_caption.py --data "
            f"{args.data} --out FILE writes, or else --no-caption for an empty prompt.",
            2,
        )
    if args.no_caption:
        return None
    captions = read_captions(args.captions)
    paths = find_images(args.data)
    missing = [path for path in paths if path not in captions]
    if missing:
        run.fail(
            f"{args.captions} lacks {len(missing)} of the {len(paths)} images, the first is "
            f"{missing[0]}: complete it with python 01_caption.py --data {args.data} --out "
            f"{args.captions}"
        )
    return captions


# ---------------------------------------------------------------- sizes and steps
def check_steps(steps, strengths):
    """End the run if --steps leaves nothing to compute for one of the strengths."""
    from augment.diffusers_pipeline import fewest_steps

    for strength in strengths:
        if strength and steps and int(steps * strength) < 1:
            run.fail(
                f"--steps {steps} is too few for --strength {strength:g}: strength x steps must be "
                f"at least 1, so use --steps {fewest_steps(strength)} or more, or leave --steps "
                "out.",
                2,
            )


def is_latent(pipe):
    """True for a text-conditioned latent pipeline, False for an unconditional one."""
    return hasattr(pipe, "vae")


def working_size(args, pipe):
    """The side in pixels at which the model works."""
    unet = pipe.unet.config
    own = unet.sample_size
    if not isinstance(own, int):
        own = own[0]
    cell = 2 ** (len(unet.block_out_channels) - 1)
    if is_latent(pipe):
        cell = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        own = own * cell
    elif unet.in_channels != 3:
        run.fail(f"--model {args.model} draws images of {unet.in_channels} channels, not RGB.", 2)
    size = args.size or own
    if size % cell:
        run.fail(f"--size {size} is not a multiple of {cell}, as this model needs.", 2)
    return size


def plan_of(args, pipe, strength):
    """What a strength comes to with this model (`diffusers_pipeline.plan`)."""
    from augment.diffusers_pipeline import fewest_steps, plan

    steps = args.steps
    distilled = is_latent(pipe) or type(pipe.scheduler).__name__ == "LCMScheduler"
    if not steps and not distilled:
        steps = max(UNCONDITIONAL_STEPS, fewest_steps(strength or 1))
    return plan(strength, pipe.scheduler, steps)


# ---------------------------------------------------------------- the strategy
def diffusion(args, device):
    """The `Strategy`: one view for each strength, all from the same noise."""
    import torch
    import torch.nn.functional as F

    from augment import diffusers_pipeline as pipeline
    from augment.strategy import Strategy, read_square
    from base import hub
    from images.pictures import square

    strengths = list(dict.fromkeys(args.strength))
    check_steps(args.steps, strengths)
    pipe, folder = pipeline.load_pipeline(args.model, device, args.precision, args.variant)
    captions = None
    if is_latent(pipe):
        model = pipeline.LatentModel(pipe)
        pipe.vae.use_slicing = args.vae_slicing
        pipe.vae.use_tiling = args.vae_tiling
        captions = captions_of(args)
    else:
        model = pipeline.PixelModel(pipe)
        if args.captions or args.no_caption:
            run.fail(
                f"--captions, --no-caption: {args.model} is unconditional and takes no text; leave "
                "them out.",
                2,
            )
    size = working_size(args, pipe)
    stored = min(args.store_size, size)
    plans = {strength: plan_of(args, pipe, strength) for strength in strengths}

    def to_stored(y):
        """float (B, 3, size, size) in [-1, 1] -> uint8 (B, stored, stored, 3) on the CPU."""
        if stored != size:
            y = F.interpolate(y, size=(stored, stored), mode="bicubic", antialias=True)
        levels = ((y + 1) * 127.5).round().clamp(0, 255).byte()
        return levels.permute(0, 2, 3, 1).cpu()

    @torch.inference_mode()
    def generate(images, paths, plans=plans):
        x = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
        seeds = [run.image_seed(args.seed, path, 0) for path in paths]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        prompts = [captions[path] if captions else "" for path in paths]
        prepared = model.prepare(x, prompts, generators)
        states = [generator.get_state() for generator in generators]
        views = []
        for strength, plan in plans.items():
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)  # the same noise at every strength
            y = model.redraw(prepared, strength, plan, generators).float()
            if not y.isfinite().all():
                run.fail(
                    f"{args.model} gave values that are no numbers at strength {strength:g}: try "
                    "--precision fp32."
                )
            views.append(to_stored(y))
        return torch.stack(views)

    def sheet(images, paths):
        """Figure 28: each image beside what it becomes at growing strengths."""
        shown = {}
        for strength in sorted({*FIGURE_28, *strengths}):
            if not args.steps or not strength or int(args.steps * strength) >= 1:
                shown[strength] = plan_of(args, pipe, strength)
        titles = ["original"]
        for strength, plan in shown.items():
            exact = abs(plan["level"] - strength) < 0.005
            titles.append(f"{strength:g}" if exact else f"{strength:g} ({plan['level']:.2f})")
        views = generate(images, paths, shown).numpy()
        rows = [[square(image, stored), *views[:, i]] for i, image in enumerate(images.numpy())]
        labels = [captions[path] for path in paths] if captions else ()
        return titles, rows, labels

    parameters = 0
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            parameters += sum(p.numel() for p in part.parameters())
    return Strategy(
        views=[f"strength{strength:g}/view0" for strength in strengths],
        read=functools.partial(read_square, size=size),
        generate=generate,
        size=stored,
        parameters=parameters,
        record={
            "model_sha256": hub.folder_hash(folder),
            "captions_sha256": run.file_hash(args.captions) if captions else None,
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "size": size,
            "diffusers": hub.library("diffusers").__version__,
        },
    )
