"""Stage 03: self-supervised pretraining on pairs of a real and a generated view (chapter 5).

    python 03_pretrain.py --data ROOT/train --generated gen/inpaint --out runs/inpaint
    torchrun --standalone --nproc_per_node=4 03_pretrain.py --data ROOT/train \\
        --generated gen/inpaint --out runs/inpaint

One view of an image is always real, with the method's published augmentations. The other one, the
first unless --replace says otherwise, is with probability --mix the stored generated image with the
--pair augmentations on top. Otherwise it is the real image again, with the published ones.

--mix 0 is exactly the baseline: the same random numbers, and the generated folder is not opened.
--generated real is the control: the real image, resized and cropped like a generated one, stands in
its place. What the control gains over the baseline is not a gain of generation.

The defaults are the dissertation's (VICReg, ResNet-50, 100 epochs, LARS, batch 800) and, where it
is silent, the method's published recipe; the files of models/ list both with their sources.

Reads a folder tree of images and mirrors made by 02_augment.py. Writes a run folder: backbone.pth
(torchvision's names, loads strictly), log.jsonl, curves.png, views.png (the first batch as the
network sees it) and, if images could not be read, unreadable.jsonl: the next readable image stands
in for each of them. The same command continues an interrupted run, bit for bit on CPUs of one kind.

If a step does not fit the GPU's memory, --grad-checkpoint trades a third more time for most of it.
Gradient accumulation is not offered: it does not enlarge the batch whose statistics the losses use.
"""

import re
import time
from pathlib import Path

from base import cli, run, run_folder
from models import registry

STAGE = "03_pretrain"
MAY_CHANGE = ("log_every", "knn", "colour_on")  # beside run_folder.MAY_CHANGE
KNN_EVERY = 10  # epochs between two probes of --knn
SMALL = dict(backbone="resnet18", small_images=True, size=32, store_size=32)
PRESET_FLAGS = {"cifar": SMALL | dict(batch_size=256, epochs=1000)}  # flags that a preset sets


def arguments(argv=None):
    p = cli.parser(__doc__)
    add = p.add_argument
    add("--data", required=True, help="folder tree of the real images; labels are not used")
    add("--out", required=True, help="run folder")
    add("--method", default="vicreg", choices=list(registry.METHODS), help="how it is trained")
    add(
        "--preset",
        choices=list(PRESET_FLAGS),
        help="settings where no flag says otherwise (default: published); cifar: solo-learn's",
    )
    # ---- views
    add(
        "--generated",
        nargs="+",
        default=[],
        metavar="DIR",
        help="mirrors made by 02_augment.py; one of all their views is drawn at random for each "
        "image and epoch. 'real' is the control: the real image in place of a generated one",
    )
    add(
        "--mix",
        type=cli.fraction,
        help="probability of a generated view (default: 0.5 with --generated, else 0)",
    )
    add(
        "--pair",
        nargs="+",
        default=["crop"],
        metavar="AUG",
        help="augmentations on top of a generated view: any of crop flip jitter blur solarize "
        "grayscale, or none. Crop alone did best (Table 3), colour hurts",
    )
    add(
        "--replace",
        choices=["first", "second", "either"],
        help="view whose place a generated one takes (default: first, as in Figures 21 and 23); it "
        "matters where the two views' augmentations differ, as in VICReg, Barlow Twins, BYOL, DINO",
    )
    add(
        "--views",
        type=cli.positive,
        default=1,
        choices=[1, 2, 3],
        help="generated views of an image, from distinct mirrors; the loss is the pairs' mean",
    )
    add(
        "--both-generated",
        action="store_true",
        help="two generated images for each pair, from distinct mirrors, both with the --pair "
        "augmentations: Table 2's arms; the real image takes no part",
    )
    add(
        "--view-preset",
        default="photos",
        choices=["photos", "digits", "satellite"],
        help="changes of the published views for images that are not photographs",
    )
    add(
        "--crop-scale",
        type=cli.fraction,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="share of the image that a view shows (default: published, or the preset's)",
    )
    cli.numbers(
        p,
        local_crops=(cli.zero_or_more, None, "small crops (dino: 6, else 0)"),
        local_size=(cli.positive, 96, "side of a local crop in pixels"),
        store_size=(
            cli.positive,
            256,
            "side in pixels at which --generated real stores its image: that of generated ones",
        ),
        size=(cli.positive, 224, "side of a view in pixels"),
    )
    # ---- network
    add(
        "--backbone",
        default="resnet50",
        help="a ResNet, resnet10 for tiny images; or a vision transformer: vit_small_patch16",
    )
    add("--small-images", action="store_true", help="3x3 stem, no max-pooling: for up to 64 px")
    add("--projector", metavar="N-N-N", help="widths of its layers (default: published)")
    add("--init", metavar="FILE", help="backbone weights to start from, instead of random ones")
    # ---- optimisation
    cli.numbers(
        p,
        epochs=(cli.positive, 100, "passes over the images"),
        batch_size=(
            cli.positive,
            None,
            "images a step, over all processes (default: 800; 512 and 384 with --views 2 and 3)",
        ),
    )
    add(
        "--optimizer",
        default="published",
        choices=["published", "lars", "adamw"],
        help="published: the method's own; adamw suits small images and small batches",
    )
    cli.numbers(
        p,
        learning_rate=(
            cli.from_zero,
            None,
            "base of it, scaled with the batch, mostly x batch / 256 (default: published)",
        ),
        weight_decay=(cli.from_zero, None, "fixed value (default: published)"),
        warmup_epochs=(cli.from_zero, 10, "warm-up, as published"),
    )
    for name, about in registry.flags().items():
        add(f"--{name.replace('_', '-')}", **about)
    add(
        "--grad-checkpoint",
        action="store_true",
        help="recompute activations in the backward pass, to save memory; BatchNorm's running "
        "statistics then move twice a step",
    )
    add("--seed", type=int, default=0, help="seed of the weights, the order and the views")
    # ---- watching
    add("--log-every", type=cli.positive, default=50, help="steps between lines")
    run_folder.checkpoint_argument(p)
    add(
        "--knn",
        metavar="ROOT",
        help="labelled images, ROOT/train and ROOT/val, for a kNN probe every ten epochs",
    )
    add(
        "--colour-on",
        default="auto",
        choices=["auto", "cpu", "gpu"],
        help="where jitter, blur and the like are computed; auto: on the CPU if it has at least "
        "four cores for each GPU, twelve for an A100, H100, H200 or B200",
    )
    add(
        "--in-memory",
        action="store_true",
        help="hold all images in memory and cut whole batches: four times as fast for images of "
        "one size of at most 64 px (the crops then differ by a level or two)",
    )
    cli.device_arguments(p)
    args = p.parse_args(argv)
    if args.preset:
        p.set_defaults(**PRESET_FLAGS[args.preset])
        args = p.parse_args(argv)
    return args


if __name__ == "__main__":
    args = arguments()

import torch

from base import parallel
from base.training import Resumable
from evaluate import features
from images import batch_views
from images.files import class_of, find_images, read_ahead
from images.pairs import PairDataset, inputs_of, mirrors_of, small_loader
from images.plots import curves
from images.unreadable import RECORD
from images.views import with_preset
from models import vit
from models.lars import build_optimizer, clip_each, peak_lr, set_rates
from models.method import embedding_stats
from models.resnet import build_backbone, checkpoint_stages, load_backbone


# ---------------------------------------------------------------- settings
def complete(args):
    """Fill in and check the arguments; returns the method's settings (see models/method.py)."""
    recipe = registry.recipe_of(args.method, args.backbone, args.preset)
    if args.mix is None:
        args.mix = 1.0 if args.both_generated else 0.5 if args.generated else 0.0
    if args.both_generated and args.mix < 1:
        run.fail("--both-generated leaves nothing to mix: use --mix 1, or leave --mix out.", 2)
    if args.both_generated and args.replace:
        run.fail("--both-generated replaces both views: leave --replace out.", 2)
    args.replace = args.replace or "first"
    if args.mix > 0 and not args.generated:
        run.fail("--mix above 0 needs --generated: a mirror, or 'real' for the control.", 2)
    if args.crop_scale and not 0 < args.crop_scale[0] <= args.crop_scale[1]:
        run.fail("--crop-scale LOW HIGH: 0 < LOW <= HIGH <= 1.", 2)
    if args.projector and not re.fullmatch(r"[1-9]\d{0,6}(-[1-9]\d{0,6})+", args.projector):
        run.fail(f"--projector {args.projector}: give widths such as 2048-2048-128.", 2)
    if args.views > 1 and not args.generated:
        run.fail("--views above 1 needs --generated with as many mirrors.", 2)
    if args.batch_size is None:
        args.batch_size = {1: 800, 2: 512, 3: 384}[args.views]
    if args.backbone.startswith("vit_") and "vit" not in recipe:
        if args.optimizer != "adamw" or args.learning_rate is None:
            run.fail(
                f"--method {args.method} was published with ResNets only: for {args.backbone} give "
                "--optimizer adamw and a --learning-rate, or choose --method dino.",
                2,
            )

    # ---- the method's settings, and the flags that replace them
    given = {name: getattr(args, name) for name in ("projector", *registry.flags())}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - recipe["head"].keys():
        run.fail(f"--{name.replace('_', '-')}: {args.method} has no such setting; leave it out.", 2)
    recipe["head"] = recipe["head"] | given
    if args.weight_decay is not None:
        recipe["weight_decay_end"] = None
    args.weight_decay_end = recipe["weight_decay_end"]
    for name in ("optimizer", "learning_rate", "weight_decay", "local_crops"):
        if getattr(args, name) in (None, "published"):
            setattr(args, name, recipe[name])
        recipe[name] = getattr(args, name)
    if args.backbone.startswith("vit_") and args.local_crops:
        vit.check_crop(args.backbone, args.local_size)
    return recipe


def build_data(args, recipe, paths, folders, device):
    """The pairs of real and generated views."""
    for folder in folders if folders != "real" else ():
        run.keep_apart(args.data, generated=folder)
    return PairDataset(
        args.data,
        paths,
        with_preset(recipe["views"], args.view_preset, args.crop_scale),
        args.size,
        seed=args.seed,
        mix=args.mix,
        pair=args.pair,
        replace=args.replace,
        generated=folders,
        partners=args.views,
        both_generated=args.both_generated,
        local_crops=args.local_crops,
        local_size=args.local_size,
        store_size=args.store_size,
        on_device=batch_views.is_wanted(device, args.colour_on, args.in_memory),
        share=args.max_unreadable,
        record=Path(args.out, RECORD),
    )


# ---------------------------------------------------------------- the model
def build_model(args, recipe, normalisation):
    """The method's module, with the initial weights of --seed or --init; (mean, std) of pixels."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    settings = recipe["zero_init_residual"], args.size, recipe["drop_path"]
    small_images = args.small_images * recipe["stem_padding"]
    backbone, width = build_backbone(args.backbone, small_images, *settings)
    if args.init:
        try:
            backbone.load_state_dict(load_backbone(args.init)[0].state_dict())
        except RuntimeError:
            small = " --small-images with this padding of its stem" * args.small_images
            run.fail(f"--init {args.init} is not a {args.backbone}{small}.", 2)
    backbone.normalisation = normalisation
    options = dict(recipe["head"])
    if "global_views" in options:
        options["global_views"] = 1 + args.views
    return registry.build_method(args.method, backbone, width, **options)


# ---------------------------------------------------------------- the training
def main(args, device):
    recipe = complete(args)
    run.keep_apart(args.data, out=args.out)
    folders, made_by = mirrors_of(args.generated, args.mix)
    paths = find_images(args.data)
    run.check_batch(len(paths), args.batch_size, least=2)
    if args.knn:
        features.read_splits(args.knn)  # it ends the run if the probe could not use them
    data = build_data(args, recipe, paths, folders, device)
    peak = peak_lr(args.learning_rate, recipe["scaling"], args.batch_size)
    mean, std = data.first["mean"], data.first["std"]
    model = build_model(args, recipe, (mean, std))

    # ---- the run folder: nothing is written before all of the above has been checked
    inputs = inputs_of(paths, folders, made_by)
    noted = {"generated_by": made_by, "images": len(paths), "peak_lr": peak}
    noted["classes"] = sorted({class_of(path) for path in paths})  # what data this is
    noted |= {"mean": mean, "std": std}  # evaluations must normalise as the training did
    out = run_folder.open_run(args, STAGE, "backbone.pth", MAY_CHANGE, inputs, noted)
    if out is None:
        return
    if args.grad_checkpoint:
        checkpoint_stages(model.backbone)
    model = model.to(device, memory_format=torch.channels_last)
    network = parallel.data_parallel(model, device)
    optimizer = build_optimizer(model, recipe)
    state = Resumable(out, args.checkpoint_minutes, device, model=model, optimizer=optimizer)
    first, meter = state.step, state.meter
    per_epoch = len(paths) // args.batch_size
    total = args.epochs * per_epoch
    if parallel.rank() == 0 and not first:
        print(
            f"{args.method}: {len(paths)} images, {total} steps of {args.batch_size}, learning "
            f"rate {peak:.4g}, mixing rate {args.mix}"
        )

    crop = features.crop_of(args.method, args.size)
    probe = features.Settings(
        crop, device, args.precision, args.workers, args.max_unreadable, args.out
    )
    bar = run.progress(total * args.batch_size, args.method, first * args.batch_size)
    bar.unit = " images"
    clock, clock_step = time.monotonic(), first
    order = run.batches(len(data), args.batch_size, args.seed, first, total)
    if args.in_memory:
        loader = small_loader(data, order, args.workers, device)
    else:
        loader = read_ahead(order, data.batch, args.workers, device)
    for step, (images, choices, _) in enumerate(loader, first):
        epoch = step / per_epoch
        set_rates(optimizer, recipe, peak, step, total, round(args.warmup_epochs * per_epoch))
        torch.manual_seed(run.image_seed(args.seed, "step", step, parallel.rank()))  # drop path
        crops = []
        for image, choice in zip(images, choices, strict=True):
            image = image.to(device, non_blocking=True)
            crops.append(batch_views.colour_and_normalise(image, choice, mean, std))
        if step == 0 and parallel.rank() == 0:
            batch_views.draw(out / "views.png", crops, mean, std)

        with run.autocast(device, args.precision):
            views, local = crops[: 1 + args.views], crops[1 + args.views :]
            loss, terms, embedding = network(views, local, epoch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = clip_each(model, recipe["clip_grad"])
        model.before_update(epoch)
        optimizer.step()
        model.after_update(step / total)
        meter.add(step, {"loss": loss, **terms, "gradient": gradient})

        # ---- looking and saving
        done = step + 1
        bar.update(args.batch_size)
        epoch_ends = done % per_epoch == 0
        if done % args.log_every == 0 or epoch_ends:
            speed = (done - clock_step) * args.batch_size / (time.monotonic() - clock)
            clock, clock_step = time.monotonic(), done
            event = {"step": done, "epoch": done / per_epoch, **meter.read()}
            event |= embedding_stats(embedding)
            event |= {"lr": optimizer.param_groups[0]["lr"], "images_per_second": speed}
            if device.type == "cuda":
                event["memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
            run_folder.log(out, event="step", **event)
            bar.set_postfix(loss=f"{event['loss']:.3f}", rank=f"{event['effective_rank']:.0f}")
        if epoch_ends and parallel.rank() == 0:
            quantities = ["loss", *terms, "embedding_std", "effective_rank"]
            curves(out / "curves.png", run_folder.read_log(out, "step"), quantities)
        if args.knn and (done == total or done % (KNN_EVERY * per_epoch) == 0):
            top1 = features.knn_probe(model.encoder(), args.knn, probe)
            run_folder.log(out, event="knn", epoch=done // per_epoch, top1=top1)
            if parallel.rank() == 0:
                print(f"epoch {done // per_epoch}: kNN top-1 {top1:.1f} %")
        state.save_if_due(step, total)
    bar.close()

    # ---- result
    if parallel.rank() == 0:
        weights = model.encoder().state_dict()
        tensors = {name: value.cpu().contiguous() for name, value in weights.items()}
        run.save(out / "backbone.pth", tensors)
        print(f"{out / 'backbone.pth'} is written")
    run_folder.close_run(out)


if __name__ == "__main__":
    run.launch(main, args)
