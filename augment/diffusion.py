"""The strategy `diffusion`: add noise to an image up to a strength alpha, and denoise it again.

Dissertation, section 4.4. With --mask it changes only a part of the image: an in-painter that is
given no labels. The networks and schedulers are those of diffusers
(https://github.com/huggingface/diffusers), in one of two kinds of pipeline. A latent one takes
texts: SDXL-Turbo, or another SDXL. An unconditional one works on pixels, and
extras/train_diffusion.py makes it. Used by 02; 01 reads captions and extras draws samples with it.
"""

import functools
import itertools
import json
import math
import os

from augment import masks
from base import cli, parallel, run, weights

PIPELINE_LAYOUT = (
    "a diffusers pipeline folder with model_index.json and *.safetensors weights, either of SDXL "
    "(scheduler/ text_encoder/ text_encoder_2/ tokenizer/ tokenizer_2/ unet/ vae/) or "
    "unconditional (scheduler/ unet/)"
)
LATENT = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")  # in model_index.json
PIXEL = ("DDPMPipeline", "DDIMPipeline")
GRID = 16  # cells of a mask in a row, as many as MaskGIT has tokens


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
        type=cli.fraction,
        nargs="+",
        default=[0.2],
        metavar="ALPHA",
        help="share of the noise schedule that the image is sent back through. 0.2 was best, above "
        "0.3 hurt (Figure 30). 0 is the VAE's reconstruction, the control. Each strength makes "
        "OUT/strengthALPHA/view0, and a later command can add further ones. The level that is "
        "reached is int(steps x alpha) / steps: with the fewest steps it is 0.25 at alpha 0.3 and "
        "0.33 at 0.4",
    )
    cli.numbers(
        p,
        mask=(
            masks.mask_name,
            None,
            f"part of the image that may change, on a grid of {GRID} x {GRID} cells, by the masks "
            "of inpaint, such as center or random:0.5. All other latents stay the original's. "
            "In-painting wants --strength 1. none: the VAE's reconstruction (default: all may "
            "change)",
        ),
        steps=(
            cli.positive,
            None,
            "steps of the whole schedule; int(steps x alpha) of them are computed, at least one. "
            "Without this flag they are the fewest, 1/alpha rounded up, as a distilled model such "
            f"as SDXL-Turbo wants it, and {PixelModel.default_steps} for an unconditional model",
        ),
        size=(
            cli.positive,
            None,
            "side in pixels at which the model works; images are resized and cropped to it. "
            "Without this flag it is the model's own, 512 for SDXL-Turbo",
        ),
        store_size=(
            cli.positive,
            256,
            "side of the stored images in pixels; never more than --size",
        ),
    )


# ---------------------------------------------------------------- captions
def read_captions(file):
    """{path: record} of a caption file of stage 01; a record has "path" and "caption", both texts.

    A line that is no caption, or one of a path that has one, ends the run with its number.
    """
    records = {}
    lines = run.read_text(file).split("\n")  # splitlines would cut at rare characters in captions
    if not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["caption"].encode()  # fails for bytes that are not UTF-8
            if record["path"] in records:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            run.fail(
                f'{file}, line {number} is not {{"path": "CLASS/img.jpg", "caption": "..."}} in '
                "UTF-8, or names a path a second time: mend or remove it, or write the file again "
                "with 01_caption.py."
            )
        records[record["path"]] = record
    return records


def captions_of(args):
    """{path: record} for every image of --data, or None with --no-caption."""
    from images.files import find_images

    if args.no_caption:
        return None
    more = f"python 01_caption.py --data {args.data} --out {args.captions or 'FILE'}"
    if not os.path.isfile(args.captions or ""):
        run.fail(
            f"{args.model} takes a text: --captions must name a file, but it is {args.captions}. "
            f"{more} writes one. Or give --no-caption, for an empty prompt.",
            2,
        )
    captions = read_captions(args.captions)
    missing = [path for path in find_images(args.data) if path not in captions]
    if missing:
        run.fail(
            f"{args.captions} lacks {len(missing)} images, the first is {missing[0]}: complete it "
            f"with {more}"
        )
    return captions


# ---------------------------------------------------------------- loading
def pipeline_folder(model):
    """The local folder of a pipeline: `model` itself, or that of a hub id, which is downloaded."""
    diffusers = weights.library("diffusers")
    download = functools.partial(diffusers.DiffusionPipeline.download, use_safetensors=True)
    return weights.model_folder(model, "model_index.json", PIPELINE_LAYOUT, download)


def load_pipeline(model, device, precision):
    """(diffusers pipeline on the device, its folder). model: a folder or a hub id."""
    folder = pipeline_folder(model)
    import diffusers

    index = run.read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in LATENT and kind not in PIXEL:
        run.fail(f"--model {model} is a {kind}. Expected: {PIPELINE_LAYOUT}.", 2)
    # One process of a machine after the other: so its memory holds one copy at a time.
    for turn in range(max(parallel.everyone(parallel.local_world()))):
        if turn == parallel.local_rank():
            parts = load_parts(folder, index, device, precision)
        parallel.barrier()
    try:
        if kind in LATENT:
            pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
                **parts,
                add_watermarker=False,  # it would mark every training image
                requires_aesthetics_score=index.get("requires_aesthetics_score", False),
            )
        else:
            pipe = diffusers.DDPMPipeline(**parts)  # DDIMPipeline would change the scheduler
    except TypeError as error:  # a part too many or too few
        reason = weights.first_line(error)
        run.fail(f"{folder}/model_index.json: {reason}. Expected: {PIPELINE_LAYOUT}.")
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


def load_parts(folder, index, device, precision):
    """{name: network, tokenizer or scheduler} of the parts that model_index.json lists.

    The scheduler has trailing timesteps, as SDXL-Turbo's has: denoising then starts at the level
    that was asked for. With the "leading" timesteps of other models a single step would start at
    the lowest level there is, whatever the strength. An unconditional model is sampled with DDIM,
    because DDPM wants all 1,000 steps.
    """
    import torch

    libraries = {name: weights.library(name) for name in ("diffusers", "transformers")}
    dtype = weights.network_dtype(device, precision)
    parts = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or not all(entry):  # a setting, or an optional part
            continue
        library, class_name = entry
        cls = getattr(libraries.get(library), class_name, None)
        if cls is None:
            run.fail(
                f"{folder}/model_index.json: {name} is {class_name} of {library}, not of diffusers "
                "or transformers."
            )
        options = {}
        if name == "scheduler":
            options = {"timestep_spacing": "trailing"}
            if index["_class_name"] in PIXEL:
                cls = libraries["diffusers"].DDIMScheduler
        if issubclass(cls, torch.nn.Module):
            options = {"torch_dtype": dtype, "use_safetensors": True}
            network = weights.load_network(cls, folder / name, **options)
            parts[name] = network.to(device)
            if device.type == "cuda" and name in ("unet", "vae"):
                network.to(memory_format=torch.channels_last)
            continue
        parts[name] = weights.from_pretrained(cls, folder / name, **options)
    return parts


# ---------------------------------------------------------------- sizes and steps
def working_size(size, pipe):
    """The side in pixels at which the model works: `size`, or the model's own if it is None."""
    network = getattr(pipe, "vae", pipe.unet)
    cell = 2 ** (len(network.config.block_out_channels) - 1)
    size = size or pipe.unet.config.sample_size * (1 if network is pipe.unet else cell)
    if size % cell:
        run.fail(f"--size {size} is not a multiple of {cell}, as this model needs.", 2)
    return size


def fewest_steps(strength):
    """The smallest N with strength x N >= 1 in the floating-point product that diffusers takes."""
    nearly = max(1, int(1 / strength) - 1)
    return next(steps for steps in itertools.count(nearly) if strength * steps >= 1)


def whole_steps(strength, scheduler, steps, default):
    """The steps of the whole schedule for a strength; int(steps x strength) of them are computed.

    steps: as asked for, or None: `default`, but no fewer than the strength needs.
    """
    if not strength:
        return 0
    fewest = fewest_steps(strength)
    steps = steps or max(fewest, default)
    trained = scheduler.config.num_train_timesteps
    if not fewest <= steps <= trained:
        run.fail(
            f"--strength {strength:g} with {steps} steps: strength x steps must be at least 1, so "
            f"use --steps {fewest} or more; the model's schedule has {trained}.",
            2,
        )
    return steps


# ---------------------------------------------------------------- noising and denoising
class LatentModel:
    """A text-conditioned latent pipeline.

    `redraw` gives what pipe(prompt, image, strength, num_inference_steps=steps, guidance_scale=0,
    generator=generators) gives, with the same random draws. The image and its prompt are encoded
    once for all strengths.
    """

    default_steps = 1

    def __init__(self, pipe):
        self.pipe = pipe
        self.vae = pipe.vae
        self.vae.use_slicing = True  # one image at a time: less than half the memory, as fast
        self.scale = self.vae.config.scaling_factor
        if getattr(self.vae.config, "latents_mean", None):
            run.fail("--model: a VAE with latents_mean is not supported; use SDXL's.", 2)

    def prepare(self, x, prompts, generators):
        """(latents, {name: embedding of the prompts}) of x (B, 3, S, S) in [-1, 1]."""
        latents = self.vae.encode(x.to(self.vae.dtype)).latent_dist.sample(generators)
        embeddings, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.vae.device, do_classifier_free_guidance=False
        )
        return latents * self.scale, {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    def redraw(self, prepared, strength, steps, generators, masked=None):
        """Images (B, 3, S, S), about in [-1, 1]. steps: as `whole_steps` counts them.

        masked: bool (B, 1, s, s), the cells that may change. After each step all other latents are
        replaced by the original's, with the same noise at the level of the next step.
        """
        from diffusers.utils.torch_utils import randn_tensor

        latents, embeddings = prepared
        original, scheduler = latents, self.pipe.scheduler
        noise = [generator.clone_state() for generator in generators]  # what the pipeline will draw
        noise = randn_tensor(latents.shape, noise, latents.device, latents.dtype)

        def keep(pipe, step, time, values):
            rest, later = original, scheduler.timesteps[scheduler.timesteps < time]
            if len(later):
                rest = scheduler.add_noise(original, noise, later[:1].repeat(len(original)))
            scale = original.shape[2] // masked.shape[2]
            where = masked.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
            return {"latents": values["latents"].where(where, rest)}

        if strength:
            latents = self.pipe(
                callback_on_step_end=None if masked is None else keep,
                image=latents,
                strength=strength,
                num_inference_steps=steps,
                guidance_scale=0.0,
                generator=generators,
                output_type="latent",
                **embeddings,
            ).images
        return self.vae.decode(latents / self.scale).sample


class PixelModel:
    """An unconditional pipeline with a DDIM scheduler, which works on the pixels themselves."""

    default_steps = 50  # of the whole schedule; our choice for models that are not distilled

    def __init__(self, pipe):
        self.unet = pipe.unet
        self.scheduler = pipe.scheduler

    def prepare(self, x, prompts, generators):
        """x (B, 3, S, S) in [-1, 1] as it is."""
        return x

    def redraw(self, x, strength, steps, generators, masked=None):
        """Images (B, 3, S, S), about in [-1, 1]. steps: as `whole_steps` counts them."""
        from diffusers.utils.torch_utils import randn_tensor

        if not strength:
            return x
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps[steps - int(steps * strength) :]
        noise = randn_tensor(x.shape, generator=generators, device=x.device, dtype=x.dtype)
        x = self.scheduler.add_noise(x, noise, timesteps[:1].repeat(len(x)))
        for t in timesteps:
            output = self.unet(x.to(self.unet.dtype), t).sample.to(x.dtype)
            x = self.scheduler.step(output, t, x).prev_sample
        return x


# ---------------------------------------------------------------- the strategy
def diffusion(args, device):
    """The `Strategy`: one view for each strength, all from the same noise."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from augment.strategy import Strategy, from_bytes, read_square, to_bytes

    pipe, folder = load_pipeline(args.model, device, args.precision)
    latent = hasattr(pipe, "vae")
    model = LatentModel(pipe) if latent else PixelModel(pipe)
    if args.mask and not latent:
        run.fail(f"--mask needs a model with latents, and {args.model} works on pixels.", 2)
    captions = captions_of(args) if latent else None
    size = working_size(args.size, pipe)
    mask, record = None, {}
    if args.mask:
        cells = math.gcd(GRID, size // pipe.vae_scale_factor)
        mask, record = masks.masks_of(args.mask, args.data, cells)
    stored = min(args.store_size, size)
    steps = {}
    for strength in args.strength:
        steps[strength] = whole_steps(strength, pipe.scheduler, args.steps, model.default_steps)

    @torch.inference_mode()
    def generate(images, paths):
        x = from_bytes(images, device).to(memory_format=torch.channels_last) * 2 - 1
        seeds = [run.image_seed(args.seed, path, 0) for path in paths]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        prompts = [captions[path]["caption"] if captions else "" for path in paths]
        prepared = model.prepare(x, prompts, generators)
        masked = None
        if mask:
            grids = [mask(path, run.seed_rng(args.seed, path, 0)) for path in paths]
            masked = torch.from_numpy(np.stack(grids)).view(-1, 1, cells, cells).to(device)
        views = []
        for strength, number in steps.items():
            same = [generator.clone_state() for generator in generators]  # noise for each strength
            y = model.redraw(prepared, strength, number, same, masked).float()
            if not y.isfinite().all():
                run.fail(
                    f"{args.model} gave values that are no numbers at strength {strength:g}: try "
                    "--precision fp32."
                )
            if stored != size:
                y = F.interpolate(y, size=(stored, stored), mode="bicubic", antialias=True)
            views.append(to_bytes((y + 1) / 2))
        return torch.stack(views)

    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return Strategy(
        views=[f"strength{strength:g}/view0" for strength in steps],
        read=functools.partial(read_square, size=size),
        generate=generate,
        size=stored,
        parameters=sum(p.numel() for network in networks for p in network.parameters()),
        record=record
        | {
            "model_sha256": weights.folder_hash(folder),
            "captions_sha256": run.file_hash(args.captions) if captions else None,
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "size": size,
            "diffusers": weights.library("diffusers").__version__,
        },
    )
