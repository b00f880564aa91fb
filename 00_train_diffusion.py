"""Stage 00: train an unconditional diffusion model on your own images: no labels, no captions, no text anywhere.

    python 00_train_diffusion.py --data ROOT/train --out runs/ddpm
    torchrun --standalone --nproc_per_node=4 00_train_diffusion.py --data ROOT/train --out runs/ddpm
    python 02_augment.py diffusion --data ROOT/train --out gen/ddpm --model runs/ddpm --strength 0.2

The dissertation names such a generator as what is missing beside SDXL-Turbo (sections 4.4 and 5.3). This is DDPM
(Ho et al. 2020, arXiv:2006.11239) with the classes of diffusers: a UNet2DModel in pixel space learns to predict
the noise in an image, and DDIM (Song et al. 2021, arXiv:2010.02502) denoises in a few steps instead of 1,000.

Reads any folder tree of images. Writes a run folder that is a diffusers pipeline as well: unet/ (the moving
average of the weights), scheduler/, model_index.json; beside them log.jsonl, curves.png and samples.png (images
redrawn at growing strengths, and images from nothing but noise). The same command continues a run that was
interrupted. Whether the loss still falls says little about the images: look at samples.png.
"""

import time

from models import old_run as run

SHOWN, STEPS = (
    (0.1, 0.2, 0.3, 0.4, 0.5),
    20,
)  # strengths in samples.png, steps of the whole schedule


def arguments(argv=None):
    p = run.parser(__doc__)
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument(
        "--out", required=True, help="run folder, afterwards the --model of 02_augment.py diffusion"
    )
    p.add_argument(
        "--size",
        type=run.count,
        default=64,
        help="side in pixels; cost grows with its square, and more",
    )
    p.add_argument("--epochs", type=float, default=500, help="passes over the images (our choice)")
    p.add_argument(
        "--batch-size", type=run.count, default=128, help="images a step, over all processes (DDPM)"
    )
    p.add_argument(
        "--learning-rate",
        type=float,
        default=1e-4,
        help="of Adam, after a warm-up over 5 %% of the steps "
        "(DDPM: 2e-4 at 32 px, 2e-5 at 256 px)",
    )
    p.add_argument(
        "--ema",
        type=float,
        default=0.9999,
        help="decay of the moving average; shorter for short runs",
    )
    p.add_argument(
        "--width", type=run.count, default=128, help="channels of the first level, a multiple of 32"
    )
    p.add_argument(
        "--multipliers",
        type=run.count,
        nargs="+",
        default=[1, 2, 2, 4],
        help="of the width, one a level, each at half the side of the one before; attention from 16 px down",
    )
    p.add_argument("--blocks", type=run.count, default=2, help="residual blocks a level")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--checkpoint-minutes", type=float, default=10, help="how much work a crash may cost"
    )
    run.device_arguments(p, workers=4)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import math
import os
import shutil

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from models.images import contact_sheet, find_images, read_image, square
from models.plots import curves


class Noised(Dataset):
    """(epoch, index) -> image in [-1, 1], flipped at random, (3, size, size); noise; timestep."""

    def __init__(self, root, paths, size, seed, timesteps):
        self.root, self.paths, self.size, self.seed, self.timesteps = (
            root,
            paths,
            size,
            seed,
            timesteps,
        )

    def __len__(self):
        return len(self.paths)

    def pixels(self, index):
        image = square(read_image(os.path.join(self.root, self.paths[index])), self.size)
        return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)

    def __getitem__(self, item):
        epoch, index = item
        rng = run.seed_rng(self.seed, "noise", epoch, self.paths[index])
        image = self.pixels(index)
        image = image.flip(2) if rng.random() < 0.5 else image
        noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32))
        return image, noise, int(rng.integers(self.timesteps))


@torch.inference_mode()
def draw_samples(path, pipe, images, seed):
    """samples.png: each of `images` (B, 3, S, S) and what it becomes at growing strengths; a row from pure noise."""
    from models.diffusion import pixel_model, plan

    _, redraw = pixel_model(pipe)

    def pixels(x):
        return list(
            ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        )

    def generators(n):
        return [torch.Generator().manual_seed(run.image_seed(seed, "sample", i)) for i in range(n)]

    def at(x, strength):
        return pixels(
            redraw(x, strength, plan(strength, pipe.scheduler, STEPS), generators(len(x)))
        )

    columns = [pixels(images), *(at(images, strength) for strength in SHOWN)]
    fresh = at(torch.zeros_like(images[:1]).expand(len(columns), -1, -1, -1), 1.0)
    contact_sheet(
        path,
        [*zip(*columns, strict=True), fresh],
        ["original", *SHOWN],
        [""] * len(images) + ["from noise alone"],
    )


def main(args):
    if run.finished("model_index.json", "00_train_diffusion", args):
        return
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel
    from diffusers.utils import logging

    logging.disable_progress_bar()
    device = run.start(args)
    paths = find_images(args.data)
    run.check_batch(len(paths), args.batch_size)
    halvings = len(args.multipliers) - 1
    if args.size % 2**halvings:
        run.fail(
            f"--size {args.size} cannot be halved {halvings} times, as {halvings + 1} --multipliers want.",
            2,
        )
    if args.width % 32:
        run.fail(
            f"--width {args.width} is not a multiple of 32 (the groups of the group norms).", 2
        )
    out = run.open_run(args.out, "00_train_diffusion", args)
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch))

    # ------------------------------------------------------------ model
    torch.manual_seed(run.image_seed(args.seed, "init"))
    attention = [
        "Attn" if args.size >> level <= 16 else "" for level in range(len(args.multipliers))
    ]
    unet = UNet2DModel(
        sample_size=args.size,
        block_out_channels=[args.width * m for m in args.multipliers],
        layers_per_block=args.blocks,
        norm_num_groups=32,
        attention_head_dim=32,
        down_block_types=[f"{kind}DownBlock2D" for kind in attention],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(attention)],
    ).to(device)
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="linear", timestep_spacing="trailing"
    )
    average = EMAModel(unet.parameters(), decay=args.ema)
    adam = torch.optim.Adam(unet.parameters(), args.learning_rate, fused=device.type == "cuda")
    first, running = 0, torch.zeros((), device=device)
    if checkpoint := run.load_checkpoint(out):
        unet.load_state_dict(checkpoint["unet"])
        adam.load_state_dict(checkpoint["adam"])
        average.load_state_dict(checkpoint["average"])
        average.to(device)
        first, running = checkpoint["step"], checkpoint["running"].to(device)
    network = unet
    if run.world() > 1:
        network = torch.nn.parallel.DistributedDataParallel(unet)

    data = Noised(args.data, paths, args.size, args.seed, scheduler.config.num_train_timesteps)
    loader = DataLoader(
        data,
        batch_sampler=run.batches(len(paths), args.batch_size, args.seed, first, total),
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    shown = torch.stack([data.pixels(i) for i in range(0, len(paths), -(-len(paths) // 5))]).to(
        device
    )

    def report():
        average.store(unet.parameters())
        average.copy_to(unet.parameters())
        unet.eval()
        pipe = DDIMPipeline(unet, DDIMScheduler.from_config(scheduler.config))
        with run.autocast(device, args.precision):
            draw_samples(out / "samples.png", pipe, shown, args.seed)
        curves(out / "curves.png", run.read_log(out, "steps"), ["loss"])
        return pipe

    # ------------------------------------------------------------ loop
    bar, saved = run.progress(total, "ddpm", first), time.time()
    for step, (images, noise, timestep) in enumerate(loader, first):
        images, noise, timestep = (
            x.to(device, non_blocking=True) for x in (images, noise, timestep)
        )
        with run.autocast(device, args.precision):
            predicted = network(scheduler.add_noise(images, noise, timestep), timestep).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)  # DDPM, equation 14
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = args.learning_rate * min(1, (step + 1) / max(1, 0.05 * total))
        adam.step()
        average.step(unet.parameters())
        loss = loss.detach()
        if run.world() > 1:
            torch.distributed.all_reduce(loss)
        running = running + loss / run.world()
        bar.update()
        if (step + 1) % 100 == 0 or step + 1 == total:
            mean = float(running) / (step % 100 + 1)
            if not math.isfinite(mean):
                run.fail(
                    f"The loss became {mean} shortly before step {step + 1}: lower --learning-rate; the last "
                    "checkpoint is kept."
                )
            run.log(out, event="steps", step=step + 1, epoch=(step + 1) / per_epoch, loss=mean)
            bar.set_postfix(loss=f"{mean:.4f}")
            running = torch.zeros((), device=device)
        if time.time() - saved > 60 * args.checkpoint_minutes and step + 1 < total:
            if run.rank() == 0:
                run.save_checkpoint(
                    out,
                    step=step + 1,
                    unet=unet.state_dict(),
                    adam=adam.state_dict(),
                    running=running,
                    average=average.state_dict(),
                )
                report()
                average.restore(unet.parameters())
                unet.train()
            saved = time.time()
    bar.close()

    # ------------------------------------------------------------ result
    if run.rank() == 0:
        report().save_pretrained(out / ".pipeline")
        for part in (
            "unet",
            "scheduler",
            "model_index.json",
        ):  # the last one makes it a pipeline, and finished
            if (out / part).is_dir():
                shutil.rmtree(out / part)
            os.replace(out / ".pipeline" / part, out / part)
        (out / ".pipeline").rmdir()
        (out / "checkpoint.pth").unlink(missing_ok=True)


if __name__ == "__main__":
    run.run_main(main, args)
