"""What a generator's training shows: pictures and curves."""

import torch

from augment.strategy import to_bytes
from base import parallel, run, run_folder
from images.pictures import contact_sheet
from images.plots import curves
from models import maskgit

PICTURE_MINUTES = 1  # pictures are drawn at most so often


@torch.no_grad()
def draw_reconstructions(out, model, images, device, args):
    """Images above their reconstructions, and the curves of the log (process 0)."""
    if parallel.rank() == 0:
        with run.autocast(device, args.precision):
            again = model.decode(model.encode(images))
        contact_sheet(
            out / "reconstructions.png", [to_bytes(images).numpy(), to_bytes(again).numpy()]
        )
        curves(out / "curves.png", run_folder.read_log(out, "epoch"), ["l1", "psnr", "perplexity"])


@torch.no_grad()
def draw_samples(out, model, tokenizer, device, args):
    """Eight images made from nothing, and the curves of the log (process 0)."""
    if parallel.rank() == 0:
        empty = torch.full((8, model.config["tokens"]), maskgit.MASK, device=device)
        rngs = [run.seed_rng(args.seed, "sample", i) for i in range(8)]
        with run.autocast(device, args.precision):
            images = tokenizer.decode(maskgit.sample(model, empty, None, rngs))
        contact_sheet(out / "samples.png", [to_bytes(images).numpy()])
        curves(out / "curves.png", run_folder.read_log(out, "epoch"), ["loss", "accuracy"])
