"""Stage 04: how good is a frozen backbone? One linear layer on its features (and, with --knn, none at all).

    python 04_linear_eval.py --data ROOT --backbone runs/x
    torchrun --standalone --nproc_per_node=4 04_linear_eval.py --data ROOT --backbone runs/x
    python 04_linear_eval.py --data ROOT --backbone runs/x --cache-features --knn --seeds 0 1 2

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone: the run folder of 03_pretrain.py, or a weight
file of ours, torchvision's, or of a VICReg, Barlow Twins, DINO or SwAV release. Writes OUT/result.json (top-1,
top-5, per-class accuracy, confusion, all arguments, the backbone's too) and OUT/result.png. The same command
continues at the last finished epoch, and returns at once when the run is finished.

Default: the published protocol (VICReg, Barlow Twins). The backbone is frozen in evaluation mode; the layer is
trained on random-resized crops and flips with SGD, momentum 0.9, a cosine per epoch, 100 epochs, batch 256; the
validation image is a centre crop of 224 from 256 px. The result is that of the last epoch. The published code
reports the best epoch on val: that number stands beside it as best_top1.

--cache-features computes the features once, on centre crops, and fits a multinomial logistic regression on them
(standardised, L-BFGS, weight decay chosen on a stratified tenth of the training images, never on val): minutes
for ImageNet, seconds for small data. It sees no augmented crops (but --cache-crops) and need not give the
published protocol's number: compare like with like. Its optimum does not depend on the initialisation: --seeds
vary only the held-out tenth, so their spread says how stable the choice of weight decay is. The spread over
pretraining runs is another matter, and so is the standard error of a val set of this size, which is printed.

Cost: ImageNet, ResNet-50, four RTX 3090: an epoch of the default takes about as long as reading the images.
"""

import math
from functools import partial

from models.old_run import (
    batches,
    check_batch,
    count,
    device_arguments,
    fail,
    finished,
    image_seed,
    load_checkpoint,
    log,
    open_run,
    parser,
    progress,
    rank,
    run_main,
    save_checkpoint,
    start,
)

LEARNING_RATES = {"vicreg": 0.02, "simclr": 0.1, "byol": 0.2}  # at batch 256; all others 0.3


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument(
        "--data", required=True, help="folder with train/CLASS/images and val/CLASS/images"
    )
    p.add_argument(
        "--backbone",
        required=True,
        metavar="PATH",
        help="run folder, weight file, or the word random (see --architecture)",
    )
    p.add_argument(
        "--out", help="run folder; without it the backbone's name with -linear or -cached"
    )
    p.add_argument(
        "--eval-on",
        default="val",
        metavar="FOLDER",
        help="sub-folder of --data to measure on; where there are both valid and test, choose on valid "
        "and report test once",
    )
    p.add_argument(
        "--size",
        type=count,
        help="side of the crops in pixels; without it that of the pretraining, or "
        "224. Evaluation crops the centre of an image resized to 256/224 of it; images of exactly this "
        "size are taken whole",
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="one measurement each")
    p.add_argument(
        "--knn", action="store_true", help="also DINO's weighted kNN: k = 20, temperature 0.07"
    )
    p.add_argument(
        "--architecture", default="resnet50", help="with --backbone random: the network's name"
    )
    p.add_argument(
        "--small-images",
        action="store_true",
        help="with --backbone random: 3x3 stem, no max-pooling",
    )
    g = p.add_argument_group("published protocol")
    g.add_argument("--epochs", type=count, default=100)
    g.add_argument(
        "--batch-size", type=count, default=256, help="images a step, over all processes"
    )
    g.add_argument(
        "--learning-rate",
        type=float,
        help="of the layer. Without it by method: VICReg 0.02 (its README; its code's default is 0.3), "
        "SimCLR 0.1, BYOL 0.2, Barlow Twins, SwAV, DINO (its ResNet-50 log) and other files 0.3",
    )
    g.add_argument("--weight-decay", type=float, default=1e-6)
    g = p.add_argument_group("features computed once")
    g.add_argument(
        "--cache-features",
        action="store_true",
        help="logistic regression on cached features instead",
    )
    g.add_argument(
        "--cache-crops",
        type=count,
        default=1,
        metavar="N",
        help="1: the centre crop of each training image; N: and N - 1 random crops; costs N times as much",
    )
    g.add_argument(
        "--baselines",
        action="store_true",
        help="print beside it: majority class, colour statistics, a random network of the same kind",
    )
    device_arguments(p)
    args = p.parse_args(argv)
    if args.baselines and not args.cache_features:
        p.error("--baselines are fitted on cached features: add --cache-features")
    name = (
        args.backbone.rstrip("/")
        .removesuffix("/backbone.pth")
        .removesuffix(".pth")
        .removesuffix(".tar")
    )
    args.out = args.out or f"{name}-{'cached' if args.cache_features else 'linear'}"
    return args


if __name__ == "__main__":
    args = arguments()
import torch
import torch.nn.functional as F

from models.features import (
    accuracy,
    bars,
    centre_crop,
    confusion,
    embed,
    extract,
    gather,
    knn,
    loader,
    per_class,
    random_crop,
    read_splits,
    summary,
    total,
    write_result,
)
from models.linear import fit_linear, held_out, scores, standardise
from models.resnet import load_backbone, random_like


class ColourStatistics(torch.nn.Module):
    """Mean and standard deviation of each colour channel: (B, 3, S, S) -> (B, 6)."""

    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def train_layer(args, out, backbone, width, data, val, size, seed, done, state, device):
    """The published protocol for one seed, from `state` on; returns (weights, history).

    data: (files, labels, number of classes); val: (features, labels); done: what earlier seeds have measured."""
    files, labels, classes = data
    W = torch.empty(classes, width).normal_(
        0, 0.01, generator=torch.Generator().manual_seed(image_seed(seed, "head"))
    )
    layer = [W.to(device).requires_grad_(), torch.zeros(classes, device=device, requires_grad=True)]
    solver = torch.optim.SGD(
        layer, lr=args.learning_rate, momentum=0.9, weight_decay=args.weight_decay
    )
    history = []
    if state:
        for tensor, saved in zip(layer, state["layer"], strict=True):
            tensor.data.copy_(saved)
        solver.load_state_dict(state["solver"])
        history = state["history"]
    steps, labels = len(files) // args.batch_size, labels.to(device)
    first, last = len(history) * steps, args.epochs * steps
    order = list(batches(len(files), args.batch_size, seed, first, last))
    images_of = loader(
        files, partial(random_crop, size=size, seed=seed), order, args.workers, device
    )
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    with progress(last, f"seed {seed}", first) as bar:
        for step, (images, indices) in enumerate(images_of, first):
            epoch = step // steps
            solver.param_groups[0]["lr"] = (
                args.learning_rate * (1 + math.cos(math.pi * epoch / args.epochs)) / 2
            )
            features = embed(backbone, images, device, args.precision)
            loss = F.cross_entropy(
                F.linear(features, *layer), labels[indices.to(device)], reduction="sum"
            )
            for tensor, gradient in zip(
                layer, torch.autograd.grad(loss / args.batch_size, layer), strict=True
            ):
                tensor.grad = total(gradient)
            solver.step()
            loss_sum += loss.detach()
            bar.update()
            if (step + 1) % steps:
                continue
            mean_loss = (total(loss_sum) / (steps * args.batch_size)).item()
            loss_sum.zero_()
            if not math.isfinite(mean_loss):
                fail(
                    f"The loss is {mean_loss} in epoch {epoch}: lower --learning-rate {args.learning_rate}."
                )
            top1, top5 = accuracy(F.linear(val[0], *layer).detach(), val[1])
            history.append([top1, top5])
            bar.set_postfix(loss=f"{mean_loss:.3f}", top1=f"{top1:.2f}")
            log(out, event="epoch", seed=seed, epoch=epoch, loss=mean_loss, top1=top1, top5=top5)
            save_checkpoint(
                out,
                done=done,
                seed=seed,
                layer=[tensor.detach().cpu() for tensor in layer],
                solver=solver.state_dict(),
                history=history,
            )
    return [tensor.detach() for tensor in layer], history


def published(args, out, backbone, width, data, val, size, device):
    """(results, guesses of each seed) of the published protocol."""
    state = load_checkpoint(out)
    done = state["done"] if state else []
    weights = [[tensor.to(device) for tensor in one["layer"]] for one in done]
    for seed in args.seeds[len(done) :]:
        own = state if state and state["seed"] == seed else None
        layer, history = train_layer(
            args, out, backbone, width, data, val, size, seed, done, own, device
        )
        weights.append(layer)
        done.append({"layer": [tensor.cpu() for tensor in layer], "history": history})
    guesses = [F.linear(val[0], *layer).argmax(1) for layer in weights]
    results = {
        "top1": summary([one["history"][-1][0] for one in done]),
        "top5": summary([one["history"][-1][1] for one in done]),
        "best_top1": summary([max(top1 for top1, _ in one["history"]) for one in done]),
    }
    return results, guesses


def cached(args, network, data, val_data, size, device):
    """(results, guesses of each seed) of the logistic regression, and of kNN if asked for, on features of `network`."""
    (files, labels, classes), (val_files, val_labels) = data, val_data
    crop = partial(centre_crop, size=size)
    run = partial(extract, network, device=device, precision=args.precision, workers=args.workers)
    val = gather(*run(val_files, crop, what="val features"), len(val_files)).to(device)
    train, rows = run(files, crop, what="train features")
    results, guesses = {}, []
    if args.knn:
        votes = knn(train.to(device), labels[rows.cpu()].to(device), val, classes)
        top1, top5 = accuracy(votes, val_labels)
        results = {"knn_top1": summary([top1]), "knn_top5": summary([top5])}
    crop = partial(random_crop, size=size, seed=0)
    parts = [(train, rows)] + [
        run(files, crop, epoch=n, what=f"crop {n + 1}") for n in range(1, args.cache_crops)
    ]
    train, rows = (
        torch.cat(tensors) if len(parts) > 1 else tensors[0] for tensors in zip(*parts, strict=True)
    )
    mean, sd = standardise(train, device)
    val, tops, chosen = (val - mean) / sd, [], []
    for seed in args.seeds:
        held = held_out(labels, seed)[rows.cpu()].to(train.device)
        W, decay, _ = fit_linear(train, labels[rows.cpu()].to(train.device), classes, held, device)
        result = scores(W, val)
        tops.append(accuracy(result, val_labels))
        guesses.append(result.argmax(1))
        chosen.append(decay)
    top1, top5 = zip(*tops, strict=True)
    return results | {"top1": summary(top1), "top5": summary(top5), "weight_decay": chosen}, guesses


def baselines(args, backbone, data, val_data, size, device):
    """What the numbers must be held against: {name: results}."""
    args = type(args)(**vars(args) | {"knn": False})
    majority = data[1].mode().values
    found = {
        "majority class": {
            "top1": summary([100 * (val_data[1] == majority.to(device)).double().mean().item()])
        }
    }
    for name, network in (
        ("colour statistics", ColourStatistics()),
        ("random-init network", random_like(backbone)),
    ):
        found[name] = cached(args, network, data, val_data, size, device)[0]
    return found


def main(args):
    if finished("result.json", "04_linear_eval", args):
        return
    device = start(args)
    classes, (files, labels), (val_files, val_labels) = read_splits(args.data, args.eval_on)
    if not args.cache_features:
        check_batch(len(files), args.batch_size)
    backbone, width, info = load_backbone(
        args.backbone, args.architecture, args.small_images, args.seeds[0]
    )
    backbone = backbone.requires_grad_(False).to(device, memory_format=torch.channels_last)
    out = open_run(args.out, "04_linear_eval", args)
    size = args.size or info["args"].get("size") or 224
    if args.learning_rate is None:
        args.learning_rate = LEARNING_RATES.get(info["args"].get("method"), 0.3) * (
            args.batch_size / 256 if info["args"].get("method") in ("simclr", "byol") else 1
        )
    data, val_data = (files, labels, len(classes)), (val_files, val_labels.to(device))

    if args.cache_features:
        results, guesses = cached(args, backbone, data, val_data, size, device)
    else:
        crop = partial(centre_crop, size=size)
        run = partial(
            extract,
            backbone,
            crop=crop,
            device=device,
            precision=args.precision,
            workers=args.workers,
        )
        val = gather(*run(val_files, what="val features"), len(val_files)).to(device)
        results, guesses = published(
            args, out, backbone, width, data, (val, val_data[1]), size, device
        )
        if args.knn:
            train, rows = run(files, what="train features")
            votes = knn(train.to(device), labels[rows.cpu()].to(device), val, len(classes))
            top1, top5 = accuracy(votes, val_data[1])
            results |= {"knn_top1": summary([top1]), "knn_top5": summary([top5])}
    beside = baselines(args, backbone, data, val_data, size, device) if args.baselines else {}

    # ------------------------------------------------------------------ the result
    table = confusion(torch.cat(guesses), val_data[1].repeat(len(guesses)), classes)
    by_class = per_class(table)
    p = results["top1"]["mean"] / 100
    results["standard_error"] = round(100 * math.sqrt(p * (1 - p) / len(val_files)), 4)
    if rank() == 0:
        for name, found in {"this backbone": results, **beside}.items():
            numbers = ", ".join(
                f"{key} {found[key]['mean']:.2f} +- {found[key]['sd']:.2f}"
                for key in ("top1", "top5", "best_top1", "knn_top1")
                if key in found
            )
            print(f"{name}: {numbers}")
        print(
            f"(+- is the standard deviation over {len(args.seeds)} seed(s); the standard error of a top1 of "
            f"{len(val_files)} images is {results['standard_error']:.2f})"
        )
        bars(out / "result.png", by_class, f"top-1 per class, mean {100 * p:.2f} %")
    write_result(
        out,
        args,
        info,
        size=size,
        protocol="logistic regression" if args.cache_features else "published",
        images={"train": len(files), "val": len(val_files), "classes": len(classes)},
        results=results,
        baselines=beside,
        per_class=by_class,
        confusion=table,
    )
    if rank() == 0:
        (out / "checkpoint.pth").unlink(missing_ok=True)


if __name__ == "__main__":
    run_main(main, args)
