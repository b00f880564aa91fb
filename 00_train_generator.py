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
fewer --multipliers and narrow networks: recipes/digits_settings.sh has a set that trains in minutes
on a CPU.
"""

import os

from base import cli, run, run_folder


def arguments(argv=None):
    p = cli.parser(__doc__)
    commands = p.add_subparsers(dest="model", required=True, metavar="vqgan | maskgit")
    sentence = "The tokenizer: an image <-> a grid of discrete tokens."
    vqgan_arguments(cli.subparser(commands, "vqgan", sentence))
    sentence = "The label-free transformer: fills in masked tokens."
    maskgit_arguments(cli.subparser(commands, "maskgit", sentence))
    return p.parse_args(argv)


def common_arguments(p, epochs, batch_size, learning_rate):
    p.add_argument("--data", required=True, help="folder tree of images")
    p.add_argument("--out", required=True, help="run folder")
    cli.numbers(
        p,
        epochs=(cli.from_zero, epochs, "passes over the images; 0.5 is half"),
        learning_rate=(cli.from_zero, learning_rate, "Adam's learning rate"),
        batch_size=(cli.positive, batch_size, "images a step, all processes"),
        seed=(int, 0, "seed of the weights, the order, flips and masks"),
    )
    p.add_argument(
        "--no-flip", action="store_true", help="no mirror images: for digits, letters and the like"
    )
    run_folder.checkpoint_argument(p)
    cli.device_arguments(p, workers=4)


def vqgan_arguments(p):
    # The learning rate is 4.5e-6 x batch: VQGAN's configuration.
    common_arguments(p, 300.0, batch_size=32, learning_rate=1.44e-4)
    cli.numbers(
        p,
        size=(cli.positive, 128, "side of the images in pixels"),
        filters=(cli.positive, 128, "base width of the network, channels"),
        blocks=(cli.positive, 2, "residual blocks of a level"),
        codes=(cli.positive, 1024, "number of codes: the vocabulary"),
        code_dim=(cli.positive, 256, "numbers in a code"),
        groups=(cli.positive, 32, "groups of a norm; divides each width"),
        unshuffle=(
            cli.positive,
            1,
            "pixels folded into channels before the first layer, each way; 2 is four times cheaper "
            "and a little less sharp",
        ),
        perceptual_weight=(
            cli.from_zero,
            1.0,
            "weight of the VGG-16 feature loss, which needs torchvision's VGG-16 weights; 0: "
            "without",
        ),
        gan_weight=(
            cli.from_zero,
            0.8,
            "weight of the PatchGAN loss, from a tenth of the training on; 0: none",
        ),
    )
    p.add_argument(
        "--multipliers",
        type=cli.positive,
        nargs="+",
        default=[1, 2, 2, 4],
        help="width of each level as a multiple of --filters; with n levels a token covers "
        "2^(n-1) x --unshuffle pixels, each way",
    )
    p.add_argument(
        "--start-from",
        default="kmeans",
        choices=["kmeans", "random"],
        help="the network before its training: kmeans of image patches, to which convolutions are "
        "added; or random weights and convolutions alone, as published",
    )


def maskgit_arguments(p):
    common_arguments(p, 3000.0, batch_size=48, learning_rate=1e-4)
    p.add_argument("--tokenizer", required=True, metavar="DIR", help="run folder of the vqgan")
    cli.numbers(
        p,
        layers=(cli.positive, 24, "transformer layers"),
        dim=(cli.positive, 768, "width of the transformer"),
        heads=(cli.positive, 16, "attention heads; --dim is a multiple of it"),
    )
    decay = "decay of the weights' moving average, which is what is kept; lower for short runs"
    cli.numbers(p, ema=(cli.fraction, 0.9999, decay))


if __name__ == "__main__":
    args = arguments()

import copy
from functools import partial

import torch
import torch.nn.functional as F

from augment import generator_training
from augment.strategy import from_bytes
from base import parallel
from base.training import Resumable
from base.weights import weight_file
from images.files import find_images, read_ahead
from images.unreadable import listed
from models import maskgit, vqgan
from models.published_maskgit import load_maskgit

RESULT = "generator.pth"
PAIRS = 800  # images of a step of 03_pretrain.py, unless it is told another number
TOKENS = "tokens.pth"  # of the images, in the folder of a maskgit that is not finished


# ---------------------------------------------------------------- vqgan
def check_vqgan(args, total):
    """Refuse what cannot be trained; returns (the file of VGG-16 or None, no further inputs)."""
    patch = args.unshuffle * 2 ** (len(args.multipliers) - 1)
    if args.size % patch:
        run.fail(f"--size {args.size} is not a multiple of the {patch} pixels a token covers.", 2)
    widths = [args.filters * multiplier for multiplier in (1, *args.multipliers)]
    if any(width % args.groups for width in widths):
        run.fail(f"--groups {args.groups} does not divide every width ({widths}).", 2)
    if total == 0 and args.start_from == "random":
        run.fail("--epochs 0 trains nothing: it needs --start-from kmeans.", 2)
    if not (args.perceptual_weight and total):
        return None, {}
    return weight_file("vgg16", otherwise="; --perceptual-weight 0 does without it"), {}


def train_vqgan(args, device, out, files, total, vgg16):
    """Returns what generator.pth holds."""
    # ---- networks
    torch.manual_seed(run.image_seed(args.seed, "init"))
    model = vqgan.VQGAN(
        filters=args.filters,
        multipliers=args.multipliers,
        blocks=args.blocks,
        codes=args.codes,
        dim=args.code_dim,
        groups=args.groups,
        unshuffle=args.unshuffle,
        convolutions=total > 0,
        patches=args.start_from == "kmeans",
    ).to(device)
    critic = vqgan.PatchDiscriminator().to(device)
    perceptual = vqgan.Perceptual(vgg16).to(device) if vgg16 else None
    optimizer = partial(torch.optim.Adam, lr=args.learning_rate, betas=(0.5, 0.9))
    adam = optimizer(model.parameters())
    adam_critic = optimizer(critic.parameters())
    used = torch.zeros(args.codes, device=device)  # how often, since the last restart of codes
    epoch_used = torch.zeros_like(used)
    state = Resumable(
        out,
        args.checkpoint_minutes,
        device,
        model=model,
        critic=critic,
        adam=adam,
        adam_critic=adam_critic,
        used=used,
        epoch_used=epoch_used,
    )
    flips = None if args.no_flip else args.seed
    read = partial(generator_training.read_squares, files, args.size, flips)
    if state.step == 0 and args.start_from == "kmeans":
        generator_training.start_at_kmeans(model, read, len(files), args.seed, args.workers, out)
    network = parallel.data_parallel(model, device)
    critic_network = parallel.data_parallel(critic, device)

    # ---- one pass of the loader over all the remaining steps
    batches = run.batches(len(files), args.batch_size, args.seed, state.step, total)
    loader = read_ahead(batches, read, args.workers, device)
    shown = generator_training.eight_images(files, args.size, device)

    def epoch_means():
        means = state.meter.read() | generator_training.usage(epoch_used)
        epoch_used.zero_()
        return means | {"psnr": generator_training.decibels(means["mse"])}

    def draw():
        generator_training.draw_reconstructions(out, model, shown, args.precision)

    steps = generator_training.steps(
        state, loader, len(files) // args.batch_size, total, epoch_means, draw
    )
    for step, images in steps:
        x = from_bytes(images, device)
        adversarial = args.gan_weight > 0 and step >= generator_training.GAN_START * total
        with run.autocast(device, args.precision):
            if step == 0 and args.start_from == "random":
                generator_training.start_at_features(model, x, args.seed)
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
                last_layer = model.decoder.out.weight
                weight = vqgan.adaptive_weight(loss, terms["generator"], last_layer)
                loss = loss + args.gan_weight * weight * terms["generator"]
            loss = loss + code_loss + generator_training.COMMITMENT * commitment
        adam.zero_grad()
        loss.backward()
        adam.step()
        if adversarial:
            with run.autocast(device, args.precision):
                real = critic_network(x).float()
                generated = critic_network(reconstruction.detach()).float()
                terms["critic"] = vqgan.hinge_loss(real, generated)
            adam_critic.zero_grad()
            terms["critic"].backward()
            adam_critic.step()
        state.meter.add(step, {"loss": loss, **terms})

        # ---- codes that nothing uses
        counts = generator_training.count(ids, args.codes)
        used += counts
        epoch_used += counts
        done = step + 1
        if done % generator_training.RESTART_STEPS == 0 and done < total:
            rng = run.seed_rng(args.seed, "restart", step)
            generator_training.restart(model, used == 0, features, rng)
            used.zero_()
    return {"tokenizer": model.state_dict(), "tokenizer_config": model.config, "size": args.size}


# ---------------------------------------------------------------- maskgit
def tokens_of(args, out, files, tokenizer):
    """The tokens of the images, int32 (n, 2, tokens), encoded when the run begins."""
    file = out / TOKENS
    if file.exists() and (out / "checkpoint.pth").exists():  # else the log has begun anew
        return run.load(file)
    tokens = generator_training.tokenize(tokenizer, files, args.workers, args.precision)
    if parallel.rank() == 0:
        run.save(file, tokens)
    return tokens


def check_maskgit(args, total):
    """Refuse what cannot be trained; returns (the tokenizer, the inputs that it stands for)."""
    if args.dim % args.heads:
        run.fail(f"--dim {args.dim} is not a multiple of --heads {args.heads}.", 2)
    tokenizer, _, digests = load_maskgit(args.tokenizer, "--tokenizer")
    return tokenizer, {"tokenizer": digests}


def train_maskgit(args, device, out, files, total, tokenizer):
    """Returns what generator.pth holds."""
    # Each step hides another number of tokens: for each, oneDNN keeps programs on a CPU with bf16.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # not 1024, which take 2 GB
    tokenizer.to(device)
    tokens = tokens_of(args, out, files, tokenizer)

    # ---- networks
    torch.manual_seed(run.image_seed(args.seed, "init"))
    model = maskgit.MaskGIT(
        codes=tokenizer.config["codes"],
        classes=0,
        tokens=tokens.shape[2],
        layers=args.layers,
        dim=args.dim,
        heads=args.heads,
        mlp=4 * args.dim,
        dropout=generator_training.DROPOUT,
    )
    model.to(device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    adam = torch.optim.AdamW(
        model.parameters(),
        args.learning_rate,
        betas=(0.9, 0.96),
        weight_decay=0.045,
        fused=device.type == "cuda",
    )
    state = Resumable(out, args.checkpoint_minutes, device, model=model, average=average, adam=adam)
    network = parallel.data_parallel(model, device)

    # ---- training
    batches = generator_training.token_batches(
        tokens, args.batch_size, args.seed, not args.no_flip, state.step, total
    )

    def draw():
        generator_training.draw_samples(out, average, tokenizer, args.seed, args.precision)

    steps = generator_training.steps(
        state, batches, len(files) // args.batch_size, total, state.meter.read, draw
    )
    for step, (target, hidden, share) in steps:
        target = target.to(device, non_blocking=True)
        # Which tokens are hidden is known on the CPU: nothing has to wait for the GPU.
        where = hidden.flatten().nonzero()[:, 0].to(device, non_blocking=True)
        masked = target.masked_fill(hidden.to(device, non_blocking=True), maskgit.MASK)
        torch.manual_seed(run.image_seed(args.seed, "dropout", step, parallel.rank()))
        with run.autocast(device, args.precision):
            logits = network(masked, where=where)
        wanted = target.flatten()[where]
        smoothing = generator_training.LABEL_SMOOTHING
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=smoothing) * share
        accuracy = (logits.detach().argmax(1) == wanted).float().mean() * share
        adam.zero_grad()
        loss.backward()
        # The learning rate rises over the first 5 % of the steps and is constant after that.
        rising = min(1, (step + 1) / max(1, 0.05 * total))
        adam.param_groups[0]["lr"] = args.learning_rate * rising
        adam.step()
        decay = min(args.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        state.meter.add(step, {"loss": loss, "accuracy": accuracy})
    return {
        "tokenizer": tokenizer.state_dict(),
        "tokenizer_config": tokenizer.config,
        "size": tokenizer.image_size,
        "transformer": average.state_dict(),
        "transformer_config": average.config,
    }


STEPS = {"vqgan": (check_vqgan, train_vqgan), "maskgit": (check_maskgit, train_maskgit)}


def main(args, device):
    run.keep_apart(args.data, out=args.out)
    paths = find_images(args.data)
    run.check_batch(len(paths), args.batch_size)
    if len(paths) < PAIRS:
        run.warn(
            f"03_pretrain.py will need a --batch-size of at most {len(paths)} for these images."
        )
    per_epoch = len(paths) // args.batch_size
    total = max(1, round(args.epochs * per_epoch)) if args.epochs else 0  # steps
    check, train = STEPS[args.model]
    ready, inputs = check(args, total)
    inputs |= {"number of images": len(paths), "list of images": run.names_hash(paths)}
    out = run_folder.open_run(args, f"00_train_generator {args.model}", RESULT, inputs=inputs)
    if out is None:
        return
    files = listed(paths, args.max_unreadable, args.out, root=args.data)
    result = train(args, device, out, files, total, ready)
    if parallel.rank() == 0:
        (out / TOKENS).unlink(missing_ok=True)
        run.save(out / RESULT, result)
    run_folder.close_run(out)


if __name__ == "__main__":
    run.launch(main, args)
