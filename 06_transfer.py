"""Stage 06: do the frozen features serve other data sets?

    python 06_transfer.py voc07 --data DATA --backbone runs/x
    python 06_transfer.py coco --data DATA --backbone runs/x
    torchrun --standalone --nproc_per_node=4 06_transfer.py places365 --data DATA --backbone runs/x
    python 06_transfer.py folder --data ROOT --backbone runs/x

Features are computed once; the backbone (as for 04_linear_eval.py) is not changed. Writes OUT/result.json
(numbers, per-class accuracy or average precision, all arguments) and OUT/result.png; a finished run returns at
once, an interrupted one computes its features again.

voc07      mean average precision (mAP) on VOC2007 test, one linear SVM a class trained on trainval: VISSL's
           protocol, which VICReg and others used. DATA holds VOCdevkit/VOC2007 as distributed.
coco       multi-label mAP on val: one logistic regression a class. DATA holds annotations/instances_train2014.json,
           instances_val2014.json, train2014/ and val2014/; the 2017 names do as well.
places365  top-1 and top-5 on val, one linear layer. DATA holds train/CLASS and val/CLASS, or the lists
           places365_train_standard.txt and places365_val.txt (filelist_places365-standard.tar) beside
           data_256_standard/ and val_256/ or data_large_standard/ and val_large/.
folder     the same for any DATA/train/CLASS, DATA/val/CLASS.

The dissertation calls its VOC07 and COCO numbers "top-1". The usual measure is mAP; both are printed, and top-1
here is the share of images whose highest-scoring class is one of their classes. How the layers for Places365
and COCO were trained is published nowhere: ours is logistic regression on centre crops (L-BFGS to convergence,
weight decay chosen on a tenth of the training images), which has no learning rate or number of epochs to set.
"""

import os
from functools import partial
from pathlib import Path

from models.old_run import (
    barrier,
    count,
    device_arguments,
    fail,
    finished,
    open_run,
    parser,
    rank,
    read_json,
    run_main,
    start,
    subparser,
    world,
)

VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
).split()
COSTS = (
    0.01,
    0.1,
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    20.0,
    50.0,
    100.0,
    1000.0,
)  # VISSL, eval_resnet_8gpu_transfer_voc07_svm


def arguments(argv=None):
    p = parser(__doc__)
    commands = p.add_subparsers(
        dest="dataset", required=True, metavar="places365 | voc07 | coco | folder"
    )
    for name, doc in (
        ("places365", "Places365 (standard): top-1 and top-5."),
        ("voc07", "PASCAL VOC 2007: mAP."),
        ("coco", "COCO as a multi-label task: mAP."),
        ("folder", "Any class folders: top-1, top-5."),
    ):
        c = subparser(commands, name, doc)
        c.add_argument("--data", required=True, help="folder of the data set")
        c.add_argument(
            "--backbone",
            required=True,
            metavar="PATH",
            help="run folder, weight file, or the word random (see --architecture)",
        )
        c.add_argument("--out", help=f"run folder; without it the backbone's name with -{name}")
        c.add_argument(
            "--size",
            type=count,
            help="side of the crops in pixels; without it that of the pretraining, or 224",
        )
        c.add_argument(
            "--seed", type=int, default=0, help="of the held-out images and the cross-validation"
        )
        c.add_argument(
            "--architecture", default="resnet50", help="with --backbone random: the network's name"
        )
        c.add_argument(
            "--small-images",
            action="store_true",
            help="with --backbone random: 3x3 stem, no max-pooling",
        )
        if name == "voc07":
            c.add_argument(
                "--costs",
                type=float,
                nargs="+",
                default=list(COSTS),
                help="the SVM's C, chosen for each class by 3-fold cross-validation on trainval",
            )
        else:
            c.add_argument(
                "--weight-decays",
                type=float,
                nargs="+",
                default=[10.0**-n for n in range(1, 7)],
                help="of the logistic regression",
            )
        if name in ("voc07", "places365"):
            c.add_argument("--download", action="store_true", help="into --data, by torchvision")
        device_arguments(c)
    args = p.parse_args(argv)
    name = (
        args.backbone.rstrip("/")
        .removesuffix("/backbone.pth")
        .removesuffix(".pth")
        .removesuffix(".tar")
    )
    args.out = args.out or f"{name}-{args.dataset}"
    return args


if __name__ == "__main__":
    args = arguments()
import warnings
from xml.etree import ElementTree

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from models.features import (
    accuracy,
    bars,
    centre_crop,
    confusion,
    extract,
    gather,
    per_class,
    read_splits,
    squash,
    summary,
    total,
    write_result,
)
from models.linear import fit_linear, held_out, scores, standardise
from models.resnet import load_backbone


# ------------------------------------------------------------------ data sets
# Each reader gives classes, (files, labels) for training, (files, labels) for evaluation. Labels are int64 (n),
# or (n, classes) with 1 for present, 0 for absent, -1 for not to be counted.
def lines_of(path):
    try:
        return [line.split() for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path} cannot be read ({error}): see --help for the layout.", 2)


def read_voc(root):
    """VOC2007's trainval and test from Annotations/*.xml; -1 where all objects of a class are marked difficult."""
    found = [
        folder
        for folder in (Path(root), Path(root) / "VOC2007", Path(root) / "VOCdevkit/VOC2007")
        if (folder / "ImageSets").is_dir()
    ]
    if not found:
        fail(
            f"{root} holds no VOCdevkit/VOC2007/ImageSets: unpack VOC2007 there, or use --download.",
            2,
        )
    splits = []
    for split in ("trainval", "test"):
        names = [words[0] for words in lines_of(found[0] / f"ImageSets/Main/{split}.txt")]
        labels = torch.zeros(len(names), len(VOC), dtype=torch.int64)
        for row, name in zip(labels, names, strict=True):
            path = found[0] / f"Annotations/{name}.xml"
            try:
                objects = ElementTree.parse(path).findall("object")
            except (OSError, ElementTree.ParseError) as error:
                fail(f"{path} cannot be read ({error}).")
            for item in objects:
                if item.findtext("name") not in VOC:
                    fail(
                        f"{path}: unknown class {item.findtext('name')!r}; VOC2007 has {', '.join(VOC)}."
                    )
                kind, difficult = (
                    VOC.index(item.findtext("name")),
                    item.findtext("difficult") == "1",
                )
                row[kind] = -1 if difficult and row[kind] != 1 else 1
        splits.append(([str(found[0] / f"JPEGImages/{name}.jpg") for name in names], labels))
    return VOC, *splits


def read_coco(root):
    """COCO's train and val of 2017 or 2014: which of the categories stand in an image; crowds count."""
    root, splits, classes = Path(root), [], None
    years = [
        year for year in (2017, 2014) if (root / f"annotations/instances_val{year}.json").exists()
    ]
    if not years:
        fail(
            f"{root} holds no annotations/instances_val2014.json or instances_val2017.json: see --help.",
            2,
        )
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}{years[0]}.json"
        content = read_json(path)
        try:
            categories = sorted((one["id"], one["name"]) for one in content["categories"])
            row = {one["id"]: i for i, one in enumerate(content["images"])}
            column = {number: i for i, (number, _) in enumerate(categories)}
            labels = torch.zeros(len(row), len(column), dtype=torch.int64)
            for one in content["annotations"]:
                labels[row[one["image_id"]], column[one["category_id"]]] = 1
            files = [
                str(root / f"{split}{years[0]}" / one["file_name"]) for one in content["images"]
            ]
        except (KeyError, TypeError) as error:
            fail(f"{path} is not in COCO's instances format: {error} is missing or unknown.")
        if classes not in (None, categories):
            fail(f"{path} has other categories than the training annotations.")
        classes = categories
        splits.append((files, labels))
    return [name for _, name in classes], *splits


def read_places(root):
    """Places365 as class folders or as the official lists."""
    root = Path(root)
    if not (root / "places365_train_standard.txt").exists():
        return read_splits(root)
    splits, classes = [], {}
    for listing, folders in (
        ("places365_train_standard.txt", ("data_256_standard", "data_large_standard", "data_256")),
        ("places365_val.txt", ("val_256", "val_large")),
    ):
        folder = next((root / name for name in folders if (root / name).is_dir()), None)
        if folder is None:
            fail(f"{root} holds {listing} but none of the folders {', '.join(folders)}.", 2)
        pairs = [(words[0].lstrip("/"), int(words[1])) for words in lines_of(root / listing)]
        if listing.startswith("places365_train"):
            classes = {
                label: name.rpartition("/")[0].partition("/")[2] for name, label in pairs
            }  # a/abbey/1.jpg
        unknown = sorted({label for _, label in pairs} - set(classes))
        if unknown or sorted(classes) != list(range(len(classes))):
            fail(
                f"{root / listing}: labels {unknown[:5] or 'are not 0, 1, 2, ...'} that no training image has."
            )
        splits.append(
            (
                [os.path.join(folder, name) for name, _ in pairs],
                torch.tensor([label for _, label in pairs]),
            )
        )
    return [classes[label] for label in range(len(classes))], *splits


def download(args):
    """By torchvision, on process 0."""
    import torchvision

    if rank() == 0 and args.dataset == "voc07":
        for split in ("trainval", "test"):
            torchvision.datasets.VOCDetection(args.data, "2007", split, download=True)
    elif rank() == 0:
        for split in ("train-standard", "val"):
            torchvision.datasets.Places365(args.data, split, small=True, download=True)
    barrier()


# ------------------------------------------------------------------ measures
def average_precision(guess, truth):
    """(exact, 11-point) average precision in 0..1 of scores (n) and 0/1 labels (n); nan without a positive.

    exact: sum of precision x gained recall over the distinct scores, not interpolated (as scikit-learn's).
    11-point: mean over recalls 0, 0.1, ..., 1 of the best precision at that recall or more (VOC2007's rule)."""
    guess, truth = np.asarray(guess, np.float64), np.asarray(truth) == 1
    if not truth.any():
        return float("nan"), float("nan")
    order = np.argsort(-guess, kind="stable")
    last = np.append(
        np.flatnonzero(np.diff(guess[order])), len(guess) - 1
    )  # of each group of equal scores
    hits = np.cumsum(truth[order])[last]
    precision, recall = hits / (last + 1), hits / hits[-1]
    exact = float(np.sum(np.diff(recall, prepend=0) * precision))
    points = [precision[recall >= level - 1e-9].max(initial=0) for level in np.linspace(0, 1, 11)]
    return exact, float(np.mean(points))


def multi_label(guess, labels, classes):
    """(results, {class: percent}) of scores and labels (n, classes)."""
    precisions = {}
    for kind, name in enumerate(classes):
        counted = labels[:, kind] >= 0
        precisions[name] = [
            100 * value for value in average_precision(guess[counted, kind], labels[counted, kind])
        ]
    values = np.array(list(precisions.values()))
    some = (labels == 1).any(1)
    best = np.where(labels >= 0, guess, -np.inf)[some].argmax(1)
    top1 = 100 * float((labels[some][np.arange(some.sum()), best] == 1).mean())
    results = {
        "map": float(np.nanmean(values[:, 0])),
        "map_11point": float(np.nanmean(values[:, 1])),
        "top1": top1,
    }
    by_class = {
        name: None if np.isnan(pair[0]) else round(pair[0], 4) for name, pair in precisions.items()
    }
    return {key: summary([value]) for key, value in results.items()}, by_class


def support_vectors(train, labels, test, costs, seed):
    """(scores of the test rows, chosen C) of one class: VISSL's linear SVM, C by 3-fold cross-validated AP.

    labels: 1, 0, or -1 for rows that are left out."""
    keep = labels >= 0
    train, labels = train[keep], labels[keep]

    def fit(cost, rows):
        machine = LinearSVC(
            C=cost,
            class_weight={0: 1, 1: 2},
            intercept_scaling=1.0,
            dual=True,
            max_iter=2000,
            tol=1e-4,
            random_state=seed,
        )
        return machine.fit(train[rows], labels[rows])

    if min(labels.sum(), len(labels) - labels.sum()) < 3:
        fail(
            "A class of VOC2007 has fewer than three images with or without it: too few for cross-validation."
        )
    folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(train, labels))
    quality = {
        cost: np.mean(
            [
                average_precision(fit(cost, rows).decision_function(train[rest]), labels[rest])[0]
                for rows, rest in folds
            ]
        )
        if len(costs) > 1
        else 0.0
        for cost in costs
    }
    cost = max(quality, key=quality.get)
    return fit(cost, np.arange(len(labels))).decision_function(test), cost


# ------------------------------------------------------------------ the evaluations
def evaluate_voc(train, labels, test, args):
    """(scores (n, classes), chosen C (classes)), float64, on every process; the classes are dealt to them."""
    train, test = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x in (train, test))
    mine = range(labels.shape[1])[rank() :: world()]
    jobs = max(1, len(os.sched_getaffinity(0)) // world())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # the largest costs need more than VISSL's 2000 steps
        found = Parallel(jobs, prefer="threads")(
            delayed(support_vectors)(train, labels[:, kind], test, args.costs, args.seed)
            for kind in mine
        )
    guess = torch.zeros(len(test), labels.shape[1], dtype=torch.float64)
    chosen = torch.zeros(labels.shape[1], dtype=torch.float64)
    for kind, (values, cost) in zip(mine, found, strict=True):
        guess[:, kind], chosen[kind] = torch.from_numpy(values), cost
    return guess, chosen


def main(args):
    stage = f"06_transfer {args.dataset}"
    if finished("result.json", stage, args, ("download",)):
        return
    device = start(args)
    if getattr(args, "download", False):
        download(args)
    reader = {
        "voc07": read_voc,
        "coco": read_coco,
        "places365": read_places,
        "folder": read_splits,
    }[args.dataset]
    classes, (files, labels), (test_files, test_labels) = reader(args.data)
    backbone, _, info = load_backbone(
        args.backbone, args.architecture, args.small_images, args.seed
    )
    out = open_run(args.out, stage, args, ("download",))
    size = args.size or info["args"].get("size") or 224
    crop = partial(squash if args.dataset == "voc07" else centre_crop, size=size)
    run = partial(
        extract, backbone, crop=crop, device=device, precision=args.precision, workers=args.workers
    )
    test = gather(*run(test_files, what="test features"), len(test_files))
    train, rows = run(files, what="train features")

    # ------------------------------------------------------------------ classifiers
    if args.dataset == "voc07":
        train = gather(train, rows, len(files))
        guess, chosen = evaluate_voc(train.cpu().numpy(), labels.numpy(), test.cpu().numpy(), args)
        guess, chosen = (total(tensor.to(device)).cpu() for tensor in (guess, chosen))
        chosen = dict(zip(classes, chosen.tolist(), strict=True))
    else:
        held = held_out(labels if labels.ndim == 1 else torch.zeros(len(files)), args.seed)
        mean, sd = standardise(train, device)
        own, held = labels[rows.cpu()].to(train.device), held[rows.cpu()].to(train.device)
        W, chosen, _ = fit_linear(
            train,
            own if labels.ndim == 1 else own.float(),
            len(classes),
            held,
            device,
            args.weight_decays,
        )
        guess = scores(W, (test.to(device) - mean) / sd).cpu()

    # ------------------------------------------------------------------ the result
    if labels.ndim == 1:
        top1, top5 = accuracy(guess, test_labels)
        table = confusion(guess.argmax(1), test_labels, classes)
        results, by_class = {"top1": summary([top1]), "top5": summary([top5])}, per_class(table)
        more = {"per_class": by_class, "confusion": table, "weight_decay": chosen}
    else:
        results, by_class = multi_label(guess.numpy(), test_labels.numpy(), classes)
        more = {
            "average_precision": by_class,
            "svm_c" if args.dataset == "voc07" else "weight_decay": chosen,
        }
    names = {"map": "mAP", "map_11point": "mAP (11-point)", "top1": "top-1", "top5": "top-5"}
    if rank() == 0:
        print(
            f"{args.dataset}: "
            + ", ".join(f"{names[key]} {value['mean']:.2f}" for key, value in results.items())
        )
        if "map" in results:
            print(
                "(mAP is the usual measure; top-1: the highest-scoring class is one of the image's. The "
                'dissertation\'s "top-1" of VOC07 and COCO does not say which it is.)'
            )
        shown = {name: value for name, value in by_class.items() if value is not None}
        what = "average precision" if "map" in results else "top-1"
        bars(
            out / "result.png",
            shown,
            f"{args.dataset}: {what} per class, mean {np.mean(list(shown.values())):.2f} %",
        )
    write_result(
        out,
        args,
        info,
        size=size,
        results=results,
        **more,
        images={"train": len(files), "val": len(test_files), "classes": len(classes)},
    )


if __name__ == "__main__":
    run_main(main, args)
