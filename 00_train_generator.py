"""Stage 00: train a generator on your own images, without labels (dissertation, section 5.7).

    python 00_train_generator.py vqgan   --data ROOT/train --out runs/vqgan
    python 00_train_generator.py maskgit --data ROOT/train --out runs/maskgit --tokenizer runs/vqgan
    torchrun --standalone --nproc_per_node=4 00_train_generator.py vqgan --data ROOT/train \\
        --out runs/vqgan

`vqgan` learns to write an image as a grid of discrete tokens and to read it back. `maskgit` learns
to fill in masked tokens. 02_augment.py --weights runs/maskgit then in- and out-paints with them.

`vqgan` starts as k-means of image patches, so that it reconstructs well from the first step on;
--epochs 0 keeps k-means alone, which takes seconds and suits small images.

Reads any folder tree of images; each is resized and cropped to its centre square. Writes a run
folder: generator.pth (the weights), log.jsonl, curves.png, and reconstructions.png or samples.png,
renewed at most once a minute. The same command continues a run that was interrupted, and returns at
once when it is finished.

The defaults are the dissertation's satellite study: 128 px, 8x8-pixel patches, 16x16 tokens of
1,024 codes, 300 epochs of batch 32; then 24 layers of width 768 without a label token, 3,000 epochs
of batch 48. It does not give the optimiser's values: they are those of the VQGAN paper
(arXiv:2012.09841) and of the MaskGIT paper (arXiv:2202.04200). Small images want a smaller --size,
fewer --multipliers and narrow networks: recipes/quickstart.sh shows a set that trains in minutes on
a CPU.
"""

import os

from base import run, run_folder


def arguments(argv=None):
    p = run.parser(__doc__)
    commands = p.add_subparsers(dest="model", required=True, metavar="vqgan | maskgit")
    vqgan_arguments(
        run.subparser(commands, "vqgan", "The tokenizer: an image <-> a grid of discrete tokens.")
    )
    maskgit_arguments(
        run.subparser(commands, "maskgit", "The label-free transformer: fills in masked tokens.")
    )
    return p.parse_args(argv)


def common_arguments(p, epochs, batch_size, learning_rate, fewest):
    add = p.add_argument
    add("--data", required=True, help="folder tree of images")
    add("--out", required=True, help="run folder")
    add("--epochs", type=fewest, default=epochs, help="passes over the images; 0.5 is half")
    add("--batch-size", type=run.positive, default=batch_size, help="images a step, all processes")
    add("--learning-rate", type=run.from_zero, default=learning_rate, help="Adam's learning rate")
    add("--seed", type=int, default=0, help="seed of the weights, the order, flips and masks")
    add("--no-flip", action="store_true", help="no mirror images: for digits, letters and the like")
    run_folder.checkpoint_argument(p)
    run.device_arguments(p, workers=4)


def vqgan_arguments(p):
    # The learning rate is 4.5e-6 x batch: VQGAN's configuration.
    common_arguments(p, 300.0, batch_size=32, learning_rate=1.44e-4, fewest=run.from_zero)
    add = p.add_argument
    add("--size", type=run.positive, default=128, help="side of the images in pixels")
    # ---- network
    add("--filters", type=run.positive, default=128, help="base width of the network, channels")
    add(
        "--multipliers",
        type=run.positive,
        nargs="+",
        default=[1, 2, 2, 4],
        help="width of each level as a multiple of --filters; with n levels a token covers "
        "2^(n-1) x --unshuffle pixels, each way",
    )
    add("--blocks", type=run.positive, default=2, help="residual blocks of a level")
    add("--codes", type=run.positive, default=1024, help="number of codes: the vocabulary")
    add("--code-dim", type=run.positive, default=256, help="numbers in a code")
    add("--groups", type=run.positive, default=32, help="groups of a norm; divides each width")
    add(
        "--unshuffle",
        type=run.positive,
        default=1,
        help="pixels folded into channels before the first layer, each way; 2 is four times "
        "cheaper and a little less sharp",
    )
    add(
        "--start-from",
        default="kmeans",
        choices=["kmeans", "random"],
        help="the network before its training: kmeans of image patches, to which convolutions are "
        "added; or random weights and convolutions alone, as published",
    )
    # ---- losses
    add("--commitment", type=run.from_zero, default=0.25, help="weight of the commitment loss")
    add(
        "--perceptual-weight",
        type=run.from_zero,
        default=1.0,
        help="weight of the VGG-16 feature loss, which needs torchvision's VGG-16 weights; 0: "
        "without",
    )
    add(
        "--gan-weight", type=run.from_zero, default=0.8, help="weight of the PatchGAN loss; 0: none"
    )
    add(
        "--gan-start",
        type=run.from_zero,
        default=30,
        metavar="EPOCH",
        help="epoch at which the discriminator joins (our choice: a tenth of the training)",
    )
    add(
        "--restart-steps",
        type=run.positive,
        default=100,
        metavar="STEPS",
        help="steps after which a code that was not used moves to a random feature of the batch",
    )


def maskgit_arguments(p):
    common_arguments(p, 3000.0, batch_size=48, learning_rate=1e-4, fewest=run.above_zero)
    add = p.add_argument
    add("--tokenizer", required=True, metavar="DIR", help="run folder of the vqgan")
    add(
        "--start-from",
        default="random",
        choices=["codes", "random"],
        help="the embeddings before the training: words from the tokenizer's codes and positions "
        "from sines, which saves a third of a short training; or random, as published",
    )
    add("--layers", type=run.positive, default=24, help="transformer layers")
    add("--dim", type=run.positive, default=768, help="width of the transformer")
    add("--heads", type=run.positive, default=16, help="attention heads; --dim is a multiple of it")
    add("--dropout", type=run.fraction, default=0.1, help="share of activations that is dropped")
    add(
        "--label-smoothing",
        type=run.fraction,
        default=0.1,
        help="share of the target's probability that is spread over all codes",
    )
    add(
        "--ema",
        type=run.fraction,
        default=0.9999,
        help="decay of the weights' moving average, which is what is kept; lower for short runs",
    )


if __name__ == "__main__":
    args = arguments()

import math
from functools import partial

import torch
import torch.nn.functional as F

from augment import codebook, generator_data, generator_log, patch_start
from augment.painting import load_maskgit
from base import parallel, training
from base.training import Meter
from images.files import find_images, read_ahead
from images.unreadable import ImageList, listed
from models import maskgit
from models.vqgan import VQGAN
from models.vqgan_losses import PatchDiscriminator, Perceptual, adaptive_weight, hinge_loss


# ---------------------------------------------------------------- vqgan
def check_vqgan(args, paths):
    """Refuse what cannot be trained, before anything is written."""
    patch = args.unshuffle * 2 ** (len(args.multipliers) - 1)
    if args.size % patch:
        run.fail(f"--size {args.size} is not a multiple of the {patch} pixels a token covers.", 2)
    widths = [args.filters * multiplier for multiplier in (1, *args.multipliers)]
    if any(width % args.groups for width in widths):
        run.fail(f"--groups {args.groups} does not divide every width ({widths}).", 2)
    image, place = ImageList(args.data, paths, share=1).read_or_next(0)
    if min(image.shape[:2]) < patch:
        run.fail(f"{paths[place]} is smaller than the {patch} pixels a token covers.", 2)
    if args.epochs <= 0 and args.start_from == "random":
        run.fail("--epochs 0 trains nothing: it needs --start-from kmeans.", 2)
    run.check_batch(len(paths), args.batch_size)


def train_vqgan(args, device):
    run.keep_apart(args.data, out=args.out)
    paths = find_images(args.data)
    check_vqgan(args, paths)
    inputs = {"number of images": len(paths), "list of images": run.names_hash(paths)}
    out = run_folder.open_run(args, "00_train_generator vqgan", "generator.pth", inputs=inputs)
    if out is None:
        return
    files = listed(paths, args, "data", args.data)
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch)) if args.epochs > 0 else 0

    # ---- networks
    torch.manual_seed(run.image_seed(args.seed, "init"))
    model = VQGAN(
        args.filters,
        args.multipliers,
        args.blocks,
        args.codes,
        args.code_dim,
        args.groups,
        args.unshuffle,
        convolutions=total > 0,
        patches=args.start_from == "kmeans",
    ).to(device)
    critic = PatchDiscriminator().to(device)
    perceptual = Perceptual().to(device) if args.perceptual_weight and total else None
    adam = torch.optim.Adam(model.parameters(), args.learning_rate, betas=(0.5, 0.9))
    adam_critic = torch.optim.Adam(critic.parameters(), args.learning_rate, betas=(0.5, 0.9))
    used = torch.zeros(args.codes, device=device)  # how often, since the last restart of codes
    epoch_used = torch.zeros(args.codes, device=device)
    first = 0
    meter = Meter()
    if saved := run_folder.load_checkpoint(out):
        model.load_state_dict(saved["model"])
        critic.load_state_dict(saved["critic"])
        adam.load_state_dict(saved["adam"])
        adam_critic.load_state_dict(saved["adam_critic"])
        used.copy_(saved["used"])
        epoch_used.copy_(saved["epoch_used"])
        first = saved["step"]
        meter = Meter(saved["meter"], device)
        del saved
    elif args.start_from == "kmeans":
        patch_start.start(model, files, args, out, device)
    network = parallel.data_parallel(model, device)
    critic_network = parallel.data_parallel(critic, device)

    # ---- one pass of the loader over all the remaining steps
    read = partial(generator_data.read_batch, files, args.size, args.seed)
    loader = read_ahead(
        generator_data.batches_of_files(files, args, first, total), read, args.workers, device
    )
    every = math.ceil(len(files) / 8)
    shown = generator_data.to_float(read([(None, i) for i in range(0, len(files), every)]), device)
    bar = run.progress(total, "vqgan", first)
    checkpoints = training.Clock(args.checkpoint_minutes)
    pictures = training.Clock(generator_log.PICTURE_MINUTES)
    for step, images in enumerate(loader, first):
        x = generator_data.to_float(images, device)
        adversarial = args.gan_weight > 0 and step >= args.gan_start * per_epoch
        with run.autocast(device, args.precision):
            if step == 0 and args.start_from == "random":
                codebook.start_at_features(model, x, args.seed)
            reconstruction, features, codes, ids = network(x)
            reconstruction = reconstruction.float()
            features = features.float()
            l1 = (x - reconstruction).abs().mean()
            code_loss = F.mse_loss(codes, features.detach())
            commitment = F.mse_loss(features, codes.detach())
            terms = {"l1": l1, "mse": F.mse_loss(reconstruction.detach(), x), "codebook": code_loss}
            loss = l1
            if perceptual:
                terms["perceptual"] = perceptual(reconstruction, x)
                loss = loss + args.perceptual_weight * terms["perceptual"]
            if adversarial:
                critic.requires_grad_(False)
                terms["generator"] = -critic(reconstruction).float().mean()
                critic.requires_grad_(True)
                weight = adaptive_weight(loss, terms["generator"], model.decoder.out.weight)
                loss = loss + args.gan_weight * weight * terms["generator"]
            loss = loss + code_loss + args.commitment * commitment
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        if adversarial:
            with run.autocast(device, args.precision):
                real = critic_network(x).float()
                generated = critic_network(reconstruction.detach()).float()
                terms["critic"] = hinge_loss(real, generated)
            adam_critic.zero_grad(set_to_none=True)
            terms["critic"].backward()
            adam_critic.step()
        meter.add(step, {"loss": loss, **terms})

        # ---- codes that nothing uses
        counts = codebook.count(ids, args.codes)
        used += counts
        epoch_used += counts
        done = step + 1
        if done % args.restart_steps == 0 and done < total:
            rng = run.seed_rng(args.seed, "restart", step)
            codebook.restart(model, used == 0, features, rng)
            used.zero_()

        # ---- looking and saving
        bar.update()
        epoch_ends = done % per_epoch == 0
        if epoch_ends or done == total:
            means = meter.read() | codebook.usage(epoch_used)
            means["psnr"] = -10 * math.log10(max(means["mse"], 1e-10))
            run_folder.log(out, event="epoch", epoch=done / per_epoch, step=done, **means)
            bar.set_postfix(psnr=f"{means['psnr']:.1f}", perplexity=f"{means['perplexity']:.0f}")
            epoch_used.zero_()
        if epoch_ends and pictures.due(step, total):
            generator_log.draw_reconstructions(out, model, shown, device, args)
        # Where a value was not finite, the next line of the log ends the run.
        if checkpoints.due(step, total) and meter.finite():
            run_folder.save_checkpoint(
                out,
                step=done,
                model=model.state_dict(),
                critic=critic.state_dict(),
                adam=adam.state_dict(),
                adam_critic=adam_critic.state_dict(),
                used=used,
                epoch_used=epoch_used,
                meter=meter.state,
            )
    bar.close()

    # ---- result
    generator_log.draw_reconstructions(out, model, shown, device, args)
    if parallel.rank() == 0:
        weights = model.state_dict()
        result = {"tokenizer": weights, "tokenizer_config": model.config, "size": args.size}
        run.save(out / "generator.pth", result)
    run_folder.close_run(out)


# ---------------------------------------------------------------- maskgit
def train_maskgit(args, device):
    # Each step hides another number of tokens: for each, oneDNN keeps programs on a CPU with bf16.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # not 1024, which take 2 GB
    run.keep_apart(args.data, out=args.out)
    if args.dim % args.heads:
        run.fail(f"--dim {args.dim} is not a multiple of --heads {args.heads}.", 2)
    paths = find_images(args.data)
    run.check_batch(len(paths), args.batch_size)
    tokenizer, _, digests = load_maskgit(args.tokenizer)
    inputs = {"tokenizer": digests}
    inputs |= {"number of images": len(paths), "list of images": run.names_hash(paths)}
    out = run_folder.open_run(args, "00_train_generator maskgit", "generator.pth", inputs=inputs)
    if out is None:
        return
    tokenizer.to(device)
    files = listed(paths, args, "data", args.data)
    tokens = generator_data.tokenize(tokenizer, args, files, out, device)
    length = tokens.shape[2]
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch))

    # ---- networks
    torch.manual_seed(run.image_seed(args.seed, "init"))
    model = maskgit.MaskGIT(
        codes=tokenizer.config["codes"],
        classes=0,
        tokens=length,
        layers=args.layers,
        dim=args.dim,
        heads=args.heads,
        mlp=4 * args.dim,
        dropout=args.dropout,
    )
    if args.start_from == "codes":
        codebook.start_embeddings(model, tokenizer.codebook)
    model.to(device)
    average = maskgit.MaskGIT(**model.config).to(device).requires_grad_(False).eval()
    average.load_state_dict(model.state_dict())
    adam = torch.optim.AdamW(
        model.parameters(),
        args.learning_rate,
        betas=(0.9, 0.96),
        weight_decay=0.045,
        fused=device.type == "cuda",
    )
    first = 0
    meter = Meter()
    if saved := run_folder.load_checkpoint(out):
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        adam.load_state_dict(saved["adam"])
        first = saved["step"]
        meter = Meter(saved["meter"], device)
        del saved
    network = parallel.data_parallel(model, device)

    # ---- training
    bar = run.progress(total, "maskgit", first)
    checkpoints = training.Clock(args.checkpoint_minutes)
    pictures = training.Clock(generator_log.PICTURE_MINUTES)
    batches = generator_data.batches_of_tokens(tokens, args, first, total)
    for step, (target, hidden, share) in enumerate(batches, first):
        target = target.to(device, non_blocking=True)
        # Which tokens are hidden is known on the CPU: nothing has to wait for the GPU.
        where = hidden.flatten().nonzero()[:, 0].to(device, non_blocking=True)
        masked = target.masked_fill(hidden.to(device, non_blocking=True), maskgit.MASK)
        torch.manual_seed(run.image_seed(args.seed, "dropout", step, parallel.rank()))
        with run.autocast(device, args.precision):
            logits = network(masked, where=where)
        wanted = target.flatten()[where]
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=args.label_smoothing) * share
        accuracy = (logits.detach().argmax(1) == wanted).float().mean() * share
        adam.zero_grad(set_to_none=True)
        loss.backward()
        for group in adam.param_groups:
            # It rises over the first 5 % of the steps and is constant after that.
            group["lr"] = args.learning_rate * min(1, (step + 1) / max(1, 0.05 * total))
        adam.step()
        decay = min(args.ema, (1 + step) / (10 + step))
        weights = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(list(average.parameters()), weights, 1 - decay)
        meter.add(step, {"loss": loss, "accuracy": accuracy})

        # ---- looking and saving
        bar.update()
        done = step + 1
        epoch_ends = done % per_epoch == 0
        if epoch_ends or done == total:
            means = meter.read()
            run_folder.log(out, event="epoch", epoch=done / per_epoch, step=done, **means)
            bar.set_postfix(loss=f"{means['loss']:.3f}")
        if epoch_ends and pictures.due(step, total):
            generator_log.draw_samples(out, average, tokenizer, device, args)
        # Where a value was not finite, the next line of the log ends the run.
        if checkpoints.due(step, total) and meter.finite():
            run_folder.save_checkpoint(
                out,
                step=done,
                model=model.state_dict(),
                average=average.state_dict(),
                adam=adam.state_dict(),
                meter=meter.state,
            )
    bar.close()

    # ---- result
    generator_log.draw_samples(out, average, tokenizer, device, args)
    if parallel.rank() == 0:
        result = {
            "tokenizer": tokenizer.state_dict(),
            "tokenizer_config": tokenizer.config,
            "size": tokenizer.image_size,
            "transformer": average.state_dict(),
            "transformer_config": average.config,
        }
        run.save(out / "generator.pth", result)
        (out / "tokens.pth").unlink(missing_ok=True)
    run_folder.close_run(out)


def main(args, device):
    train = {"vqgan": train_vqgan, "maskgit": train_maskgit}[args.model]
    train(args, device)


if __name__ == "__main__":
    run.launch(main, args)
