"""Image-to-image with the pipelines of diffusers: loading them, steps, noising and denoising.

There are two kinds of pipeline (https://github.com/huggingface/diffusers). A latent one takes
texts: SDXL-Turbo, SDXL or Stable Diffusion. An unconditional one works on pixels, and
extras/train_diffusion.py makes it. The networks and schedulers are diffusers' own. Both kinds are
used through prepare(x, prompts, generators) and redraw(prepared, strength, plan, generators).
"""

import functools

import torch

from base import hub, run

LATENT = {  # class in model_index.json -> the image-to-image class with the same parts
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionImg2ImgPipeline",
}
PIXEL = ("DDPMPipeline", "DDIMPipeline")
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")


# ---------------------------------------------------------------- loading
def load_pipeline(model, device, precision, variant=None):
    """(diffusers pipeline on the device, its folder).

    model: a folder or a hub id. variant: None, or "fp16" for the folder's *.fp16.safetensors.
    The pipeline is an image-to-image one of SDXL or Stable Diffusion, or an unconditional one.
    """
    diffusers = hub.library("diffusers")
    hub.library("transformers")
    download = functools.partial(
        diffusers.DiffusionPipeline.download, use_safetensors=True, variant=variant
    )
    folder = hub.model_folder(model, "model_index.json", hub.PIPELINE_LAYOUT, download)
    index = run.read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind not in LATENT and kind not in PIXEL:
        run.fail(f"--model {model} is a {kind}. Expected: {hub.PIPELINE_LAYOUT}.", 2)
    load = functools.partial(load_parts, folder, index, device, precision, variant)
    parts = hub.in_turn(load)
    if "scheduler" in parts:
        parts["scheduler"] = trailing(parts["scheduler"])
    # DDIMPipeline would replace the scheduler by its own, so DDPMPipeline serves for both.
    cls = getattr(diffusers, LATENT.get(kind, "DDPMPipeline"))
    try:
        pipe = cls(**parts, **pipeline_options(kind, index))
    except TypeError as error:  # a part too many or too few
        run.fail(
            f"{folder}/model_index.json: {hub.first_line(error)}. Expected: {hub.PIPELINE_LAYOUT}."
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


def load_parts(folder, index, device, precision, variant):
    """{name: network, tokenizer or scheduler} of the parts that model_index.json lists."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    dtype = hub.network_dtype(device, precision)
    parts = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or name in NOT_NEEDED:
            continue
        library, class_name = entry
        cls = getattr(libraries.get(library), class_name or "", None)
        if cls is None:
            run.fail(
                f"{folder}/model_index.json: {name} is {class_name} of {library}, not of diffusers "
                "or transformers."
            )
        if issubclass(cls, torch.nn.Module):
            dtype_option = "torch_dtype" if library == "diffusers" else "dtype"
            options = {dtype_option: dtype, "use_safetensors": True, "variant": variant}
            parts[name] = hub.load_network(cls, folder / name, **options).to(device)
            if device.type == "cuda" and name in ("unet", "vae"):
                parts[name].to(memory_format=torch.channels_last)
        else:
            try:
                parts[name] = cls.from_pretrained(folder / name, local_files_only=True)
            except (OSError, ValueError) as error:
                reason = hub.first_line(error)
                run.fail(f"{folder / name} cannot be loaded as {class_name}: {reason}")
    return parts


def pipeline_options(kind, index):
    """What the pipeline's constructor is told beside its parts."""
    if kind.startswith("StableDiffusionXL"):
        return {
            "add_watermarker": False,  # it would mark every training image
            "requires_aesthetics_score": index.get("requires_aesthetics_score", False),
        }
    if kind in LATENT:  # the safety checker blackens images, also innocent ones
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return {}


def trailing(scheduler):
    """The scheduler with trailing timesteps, as SDXL-Turbo has them.

    Denoising then starts at the level that was asked for. With the "leading" timesteps of other
    models a single step would start at the lowest level there is, whatever the strength. DDPM wants
    all 1,000 steps, so DDIM takes its place.
    """
    import diffusers

    if "timestep_spacing" not in scheduler.config:
        return scheduler
    cls = type(scheduler)
    if isinstance(scheduler, diffusers.DDPMScheduler):
        cls = diffusers.DDIMScheduler
    return cls.from_config(scheduler.config, timestep_spacing="trailing")


# ---------------------------------------------------------------- strength and steps
def fewest_steps(strength):
    """The smallest N with strength x N >= 1 in the floating-point product that diffusers takes."""
    steps = max(1, int(1 / strength) - 1)
    while strength * steps < 1:
        steps += 1
    return steps


def plan(strength, scheduler, steps=None):
    """What a strength comes to, as a dict.

    steps: of the whole schedule, default the fewest. steps_run: those that are computed.
    timestep: where denoising starts. level: the share of the training schedule up to there.
    """
    if strength == 0:
        return {"steps": 0, "steps_run": 0, "timestep": None, "level": 0.0}
    steps = steps or fewest_steps(strength)
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        run.fail(
            f"--strength {strength:g} needs {steps} steps, but the model's schedule has {trained}.",
            2,
        )
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:  # LCM's schedule has fewer
        run.fail(f"--strength {strength:g} with {steps} steps: {hub.first_line(error)}", 2)
    steps_run = int(steps * strength)
    timestep = float(scheduler.timesteps[(steps - steps_run) * scheduler.order])
    return {
        "steps": steps,
        "steps_run": steps_run,
        "timestep": timestep,
        "level": (timestep + 1) / trained,
    }


# ---------------------------------------------------------------- noising and denoising
class LatentModel:
    """A text-conditioned latent pipeline.

    `redraw` gives what pipe(prompt, image, strength, num_inference_steps=plan["steps"],
    guidance_scale=0, generator=generators) gives, with the same random draws. The image and its
    prompt are encoded once for all strengths.
    """

    def __init__(self, pipe):
        self.pipe = pipe
        self.vae = pipe.vae
        self.scale = pipe.vae.config.scaling_factor
        self.mean = self.per_channel("latents_mean", 0.0)
        self.spread = self.per_channel("latents_std", 1.0)

    def per_channel(self, name, otherwise):
        """A setting of the VAE that has a value for each channel of the latents, (1, C, 1, 1)."""
        values = getattr(self.vae.config, name, None) or [otherwise]
        return torch.tensor(values).view(1, -1, 1, 1).to(self.vae.device, self.vae.dtype)

    def prepare(self, x, prompts, generators):
        """(latents, {name: embedding of the prompts}) of x (B, 3, S, S) in [-1, 1]."""
        latents = self.vae.encode(x.to(self.vae.dtype)).latent_dist.sample(generators)
        latents = (latents - self.mean) * self.scale / self.spread
        encoded = self.pipe.encode_prompt(
            prompts,
            device=self.vae.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        embeddings = {}
        for name, value in zip(names, encoded, strict=False):  # Stable Diffusion has the first two
            if value is not None:
                embeddings[name] = value
        return latents, embeddings

    def redraw(self, prepared, strength, plan, generators):
        """Images (B, 3, S, S), about in [-1, 1]."""
        latents, embeddings = prepared
        if strength:
            latents = self.pipe(
                image=latents,
                strength=strength,
                num_inference_steps=plan["steps"],
                guidance_scale=0.0,
                generator=generators,
                output_type="latent",
                **embeddings,
            ).images
        return self.vae.decode(latents * self.spread / self.scale + self.mean).sample


class PixelModel:
    """An unconditional pipeline, which works on the pixels themselves and takes no prompts."""

    def __init__(self, pipe):
        self.unet = pipe.unet
        self.scheduler = pipe.scheduler

    def prepare(self, x, prompts, generators):
        """x (B, 3, S, S) in [-1, 1] as it is."""
        return x

    def redraw(self, x, strength, plan, generators):
        """Images (B, 3, S, S), about in [-1, 1]."""
        from diffusers.utils.torch_utils import randn_tensor

        if not strength:
            return x
        self.scheduler.set_timesteps(plan["steps"])
        begin = (plan["steps"] - plan["steps_run"]) * self.scheduler.order
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        timesteps = self.scheduler.timesteps[begin:]
        noise = randn_tensor(x.shape, generator=generators, device=x.device, dtype=x.dtype)
        x = self.scheduler.add_noise(x, noise, timesteps[:1].repeat(len(x)))
        for t in timesteps:
            scaled = self.scheduler.scale_model_input(x, t).to(self.unet.dtype)
            output = self.unet(scaled, t).sample.to(x.dtype)
            x = self.scheduler.step(output, t, x, generator=generators).prev_sample
        return x
