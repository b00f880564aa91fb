"""Train an unconditional diffusion model on your own images: no labels, no captions, no text.

    python extras/train_diffusion.py --data ROOT/train --out runs/ddpm
    torchrun --standalone --nproc_per_node=4 extras/train_diffusion.py --data ROOT/train --out ...
    python 02_augment.py diffusion --data ROOT/train --out gen/ddpm --model runs/ddpm --strength 0.2

The dissertation names such a generator as what is missing beside SDXL-Turbo (sections 4.4, 5.3).
This is DDPM (Ho et al. 2020, arXiv:2006.11239) with the classes of diffusers. A UNet2DModel in
pixel space learns to predict the noise in an image, and DDIM (Song et al. 2021, arXiv:2010.02502)
denoises in a few steps instead of 1,000.

Reads any folder tree of images. Writes a run folder that is a diffusers pipeline as well: unet/
(the moving average of the weights), scheduler/ and model_index.json. Beside them are log.jsonl and,
at the end, samples.png, which shows images redrawn at growing strengths, up to nothing but noise.
The same command continues a run that was interrupted. The loss says little about the images: look
at samples.png.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from base import cli, run, run_folder

TIMESTEPS = 1000  # of the noise schedule, as in DDPM
WARM_UP = 0.05  # share of the steps in which the learning rate rises; our choice
LOG_EVERY = 100  # steps
SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 1)  # strengths in samples.png; 1 is noise alone
SAMPLE_STEPS = 20  # of the whole schedule, for samples.png


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument(
        "--out",
        required=True,
        help="run folder; afterwards it is the --model of 02_augment.py diffusion",
    )
    cli.numbers(
        p,
        size=(
            cli.positive,
            64,
            "side of the images in pixels; the cost grows with its square, and more",
        ),
        epochs=(cli.above_zero, 500, "passes over the images (our choice)"),
        batch_size=(cli.positive, 128, "images in a step, over all processes (DDPM's value)"),
        learning_rate=(
            cli.from_zero,
            1e-4,
            "Adam's learning rate after a warm-up over 5 %% of the steps (DDPM: 2e-4 at 32 px, "
            "2e-5 at 256 px)",
        ),
        ema=(
            cli.fraction,
            0.9999,
            "decay of the weights' moving average; choose a lower one for short runs",
        ),
        width=(cli.positive, 128, "channels of the first level, a multiple of 32"),
    )
    p.add_argument(
        "--multipliers",
        type=cli.positive,
        nargs="+",
        default=[1, 2, 2, 4],
        help="each level's channels as multiples of --width. A level has half the side of the one "
        "before; there is attention from 16 px down",
    )
    cli.numbers(
        p,
        blocks=(cli.positive, 2, "residual blocks in each level"),
        seed=(int, 0, "seed of everything random"),
    )
    run_folder.checkpoint_argument(p)
    cli.device_arguments(p, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import functools

import numpy as np
import torch

from augment.diffusion import PixelModel
from augment.strategy import to_bytes
from base import parallel, weights
from base.training import Resumable
from images.files import evenly, find_images, read_ahead
from images.pictures import contact_sheet, square
from images.unreadable import listed


# ---------------------------------------------------------------- images
def read_pixels(files, index, size):
    """An image of an ImageList -> float (3, size, size) in [-1, 1]."""
    image, _ = files.read_or_next(index)
    image = square(image, size)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)


def read_noised(files, size, seed, batch):
    """What a step needs of a batch, a list of (epoch, index) of an ImageList.

    Returns images (B, 3, size, size) in [-1, 1], flipped at random; noise of the same shape; and
    timesteps (B,). Each image's draws depend on the seed, the epoch and its path.
    """
    images, noises, timesteps = [], [], []
    for epoch, index in batch:
        rng = run.seed_rng(seed, "noise", epoch, files.path(index))
        image = read_pixels(files, index, size)
        if rng.random() < 0.5:
            image = image.flip(2)
        images.append(image)
        noises.append(torch.from_numpy(rng.standard_normal(image.shape, np.float32)))
        timesteps.append(int(rng.integers(TIMESTEPS)))
    return torch.stack(images), torch.stack(noises), torch.tensor(timesteps)


# ---------------------------------------------------------------- model and samples
def build_unet(args):
    """DDPM's network: levels of residual blocks, with attention from 16 px down."""
    from diffusers import UNet2DModel

    torch.manual_seed(run.image_seed(args.seed, "init"))
    levels = range(len(args.multipliers))
    kinds = ["Attn" if args.size >> level <= 16 else "" for level in levels]
    return UNet2DModel(
        sample_size=args.size,
        block_out_channels=[args.width * multiplier for multiplier in args.multipliers],
        layers_per_block=args.blocks,
        attention_head_dim=32,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
    )


@torch.inference_mode()
def draw_samples(path, pipe, images, seed):
    """samples.png: images (B, 3, S, S) in [-1, 1] at growing strengths."""
    model = PixelModel(pipe)
    seeds = [run.image_seed(seed, "sample", i) for i in range(len(images))]
    columns = []
    for strength in (0, *SHOWN):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        redrawn = model.redraw(images, strength, SAMPLE_STEPS, generators)
        columns.append(to_bytes((redrawn + 1) / 2).numpy())
    contact_sheet(path, list(zip(*columns, strict=True)), ["original", *SHOWN])


# ---------------------------------------------------------------- training
def main(args, device):
    smallest = 2 ** (len(args.multipliers) - 1)
    if args.size % smallest or args.width % 32:
        run.fail(f"--size must be a multiple of {smallest}, and --width of 32.", 2)
    run.keep_apart(args.data, out=args.out)
    paths = find_images(args.data)
    run.check_batch(len(paths), args.batch_size)
    inputs = {"images": len(paths), "list of images": run.names_hash(paths)}
    out = run_folder.open_run(args, "train_diffusion", "model_index.json", inputs=inputs)
    if out is None:
        return
    weights.library("diffusers")
    from diffusers import DDIMPipeline, DDIMScheduler
    from diffusers.training_utils import EMAModel

    # ---- model
    unet = build_unet(args).to(device)
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(
        num_train_timesteps=TIMESTEPS, beta_schedule="linear", timestep_spacing="trailing"
    )
    average = EMAModel(unet.parameters(), decay=args.ema, foreach=True)
    adam = torch.optim.Adam(unet.parameters(), args.learning_rate, fused=device.type == "cuda")
    state = Resumable(out, args.checkpoint_minutes, device, unet=unet, adam=adam, average=average)
    average.to(device)
    network = parallel.data_parallel(unet, device)

    # ---- images
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch))
    warm_up = max(1, WARM_UP * total)
    files = listed(paths, args.max_unreadable, args.out, root=args.data)
    read = functools.partial(read_noised, files, args.size, args.seed)
    order = run.batches(len(files), args.batch_size, args.seed, state.step, total)
    loader = read_ahead(order, read, args.workers, device)

    # ---- loop
    bar = run.progress(total, "ddpm", state.step)
    for step, batch in enumerate(loader, state.step):
        images, noise, timestep = [x.to(device, non_blocking=True) for x in batch]
        with run.autocast(device, args.precision):
            noised = scheduler.add_noise(images, noise, timestep)
            predicted = network(noised, timestep).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)  # DDPM, equation 14
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = args.learning_rate * min(1, (step + 1) / warm_up)
        adam.step()
        average.step(unet.parameters())
        state.meter.add(step, {"loss": loss})
        bar.update()
        done = step + 1
        if done % LOG_EVERY == 0 or done == total:
            means = state.meter.read()
            run_folder.log(out, event="steps", step=done, epoch=done / per_epoch, **means)
        state.save_if_due(step, total)
    bar.close()

    # ---- result
    if parallel.rank() == 0:
        some = evenly(range(len(files)), 5)
        shown = [read_pixels(files, index, args.size) for index in some]
        shown = torch.stack(shown).to(device)
        average.copy_to(unet.parameters())
        unet.eval()
        pipe = DDIMPipeline(unet, scheduler)
        with run.autocast(device, args.precision):
            draw_samples(out / "samples.png", pipe, shown, args.seed)
        pipe.save_pretrained(out)  # model_index.json, the last, says that all is there
        run_folder.close_run(out)


if __name__ == "__main__":
    run.launch(main, args)
