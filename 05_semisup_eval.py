"""Stage 05: fine-tune a backbone on a share of the labels; the supervised baseline.

    python 05_semisup_eval.py --data ROOT --backbone runs/x --percent 1
    torchrun --standalone --nproc_per_node=4 05_semisup_eval.py --data ROOT --backbone runs/x \\
        --percent 10
    python 05_semisup_eval.py --data ROOT --from-scratch --percent 100 --out runs/supervised

Reads ROOT/train/CLASS/*.jpg, ROOT/val/CLASS/*.jpg and a backbone (as 04_linear_eval.py). Writes
OUT/result.json, OUT/result.png and OUT/subset.txt: the training images that were used, one path
below ROOT/train a line, which --subset-file takes again.
The same command continues at the last finished epoch, and returns at once when the run is finished.

Without --subset-file the subset has the same number of images of each class, drawn by
--subset-seed; a class that has fewer gives all it has. For ImageNet use SimCLR's official lists
(google-research/simclr, imagenet_subsets/1percent.txt and 10percent.txt), as the published numbers
do.

Fine-tuning follows the published code of the backbone's method: SGD with momentum 0.9, no weight
decay, 20 epochs, batch 256, random-resized crops and flips. Learning rates (backbone, head):

    VICReg        1 %: 0.03, 0.08    10 %: 0.01, 0.1   cosine            (README, evaluate.py)
    Barlow Twins  1 %: 0.005, 0.5    10 %: the same    cosine            (README, evaluate.py)
    SwAV          1 %: 0.02, 5       10 %: 0.01, 0.2   x 0.2 at 12, 16   (README, eval_semisup.py)

Every other backbone is fine-tuned as VICReg's. For 100 % nothing is published: the rates of 10 %
are our choice, and so are those of Barlow Twins for 10 %. What differs from the published code:
* The result is that of the last epoch. The published code reports the best epoch on val: that
  number stands beside it as best_top1.
* An incomplete last batch of an epoch is dropped: 50 steps an epoch at 1 % of ImageNet, not 51. The
  published loaders keep it, with 11 images whose BatchNorm statistics are poor.
* BatchNorm takes its statistics over the whole batch, whatever the number of processes, as SwAV
  does. VICReg and Barlow Twins take them over the share of each GPU.
* The network computes in bf16 on GPUs that have it; --precision fp32 is as published.
* Pixels are normalised as in the backbone's pretraining; of other files by ImageNet's mean and
  standard deviation, SwAV's too (its red is divided by 0.228, not 0.229).

--from-scratch trains the whole network from random weights: the dissertation's supervised baseline
(section 5.7: 98.68 at 100 epochs, 99.20 at 1,000), which gives neither its learning rate nor its
weight decay. Ours: 0.1 x batch / 256 and 1e-4, as is usual for a ResNet, a cosine, 100 epochs.
"""

from functools import partial
from pathlib import Path

from base import cli, parallel, run, run_folder
from evaluate import evaluation

STAGE = "05_semisup_eval"
RATES = {  # protocol: {percent: (learning rate of the backbone, of the head)}
    "vicreg": {1: (0.03, 0.08), 10: (0.01, 0.1)},
    "barlow": {1: (0.005, 0.5), 10: (0.005, 0.5)},
    "swav": {1: (0.02, 5.0), 10: (0.01, 0.2)},
}
SWAV_STEPS = (12 / 20, 16 / 20)  # after these shares of its epochs SwAV multiplies its rates
SWAV_FACTOR = 0.2


def arguments(argv=None):
    p = cli.parser(__doc__)
    evaluation.folder_arguments(p)
    evaluation.backbone_arguments(p, "-1percent (10, 100)", from_scratch=True)
    p.add_argument(
        "--from-scratch", action="store_true", help="no backbone: the supervised baseline"
    )
    p.add_argument(
        "--percent", type=int, default=1, choices=[1, 10, 100], help="share of the labels"
    )
    p.add_argument(
        "--subset-file",
        help="text file with the training images to use, a name or a path below train in each "
        "line; without it a class-balanced random subset",
    )
    cli.numbers(
        p,
        subset_seed=(int, 0, "seed of that random subset; keep it when --seed changes"),
        epochs=(cli.positive, None, "passes over the subset; without it 20, from scratch 100"),
        batch_size=(cli.positive, 256, "images a step, over all processes"),
        learning_rate=(
            cli.from_zero,
            None,
            "the backbone's learning rate; without it that of the backbone's method. The linear "
            "layer's is always that of the method",
        ),
        weight_decay=(cli.from_zero, None, "SGD's weight decay; without it 0, from scratch 1e-4"),
    )
    p.add_argument(
        "--crop-scale",
        type=cli.fraction,
        nargs=2,
        default=[0.08, 1.0],
        metavar=("LOW", "HIGH"),
        help="share of the image that a training crop shows",
    )
    p.add_argument(
        "--no-flip", action="store_true", help="no mirror images: for digits and letters"
    )
    cli.numbers(p, seed=(int, 0, "seed of the head, the order and the crops"))
    args = p.parse_args(argv)
    if args.from_scratch == bool(args.backbone):
        p.error("give either --backbone or --from-scratch")
    if not 0 < args.crop_scale[0] <= args.crop_scale[1]:
        p.error("--crop-scale LOW HIGH: 0 < LOW <= HIGH <= 1")
    if args.from_scratch and not args.out:
        p.error("--from-scratch needs --out")
    if not args.out:
        args.out = evaluation.default_out(args.backbone, f"{args.percent}percent")
    return args


if __name__ == "__main__":
    args = arguments()
import numpy as np
import torch

from evaluate import features, sgd
from images import labelled
from images.unreadable import listed
from models import resnet


# ---------------------------------------------------------------- data and network
def choose_subset(args, root, data):
    """The training images to use: those of the file, or as many of each class."""
    files, labels = data.train
    n = len(files)
    if args.subset_file:
        chosen = np.array(labelled.read_subset(args.subset_file, root, files), int)
    else:
        each = n
        if args.percent < 100:
            each = round(args.percent / 100 * n / len(data.classes))
        mask = labelled.some_of_each(
            labels, lambda n: each, args.subset_seed, "subset", keys=data.classes
        )
        chosen = mask.nonzero()[0]
    subset = data.train.take(chosen)
    counts = np.bincount(subset.labels, minlength=len(data.classes))
    empty = (counts == 0).nonzero()[0]
    if len(empty):
        chosen = args.subset_file or f"--percent {args.percent}"
        run.fail(
            f"{chosen} leaves {len(empty)} of {len(data.classes)} classes without an image, such "
            f"as {data.classes[empty[0]]}: take a larger share.",
            2,
        )
    return subset


def build_network(args, classes):
    """(backbone and linear layer as one module, info on the backbone)."""
    torch.manual_seed(run.image_seed(args.seed, "init"))
    if args.from_scratch:
        size = args.size or 224
        backbone, width = resnet.build_backbone(args.architecture, args.small_images, size=size)
        info = {"source": "from scratch", "architecture": args.architecture}
        info |= {"args": {}, "sha256": None}
    else:
        backbone, width, info = resnet.load_backbone(
            args.backbone, args.architecture, args.small_images, args.seed
        )
    return torch.nn.Sequential(backbone, sgd.linear_layer(width, classes)), info


def fill_in(args, method):
    """Replace what was not given on the command line by the published value.

    The result notes args.protocol and args.head_learning_rate as well.
    """
    args.protocol = method if method in RATES else "vicreg"
    published = {"epochs": 20, "weight_decay": 0.0}
    rates = RATES[args.protocol][min(args.percent, 10)]
    if args.from_scratch:
        args.protocol = None
        published = {"epochs": 100, "weight_decay": 1e-4}
        rates = (0.1 * args.batch_size / 256,) * 2
    published["learning_rate"], args.head_learning_rate = rates
    for key, value in published.items():
        if getattr(args, key) is None:
            setattr(args, key, value)


def schedule(epoch, protocol, epochs):
    """The share of the learning rates that holds in an epoch."""
    if protocol == "swav":
        passed = [step for step in SWAV_STEPS if epoch >= round(step * epochs)]
        return SWAV_FACTOR ** len(passed)
    return sgd.cosine(epoch, epochs)


# ---------------------------------------------------------------- the run
def main(args, device):
    data = labelled.read_splits(args.data, args.eval_on)
    root = Path(args.data) / "train"
    data = data._replace(train=choose_subset(args, root, data))
    files, labels = data.train
    run.check_batch(len(files), args.batch_size, least=2)
    model, info = build_network(args, len(data.classes))
    begun = evaluation.begin(args, STAGE, data, info)
    if begun is None:
        return
    fill_in(args, info["args"].get("method"))
    if parallel.rank() == 0:
        labelled.write_subset(begun.out / "subset.txt", root, files)

    model = model.to(device, memory_format=torch.channels_last)
    network = parallel.data_parallel(model, device)
    backbone, head = model
    how = features.Settings(
        features.crop_of(None, args.size),
        device,
        args.precision,
        args.workers,
        args.max_unreadable,
        args.out,
    )

    def forward(pixels):
        with run.autocast(device, args.precision):
            return network(features.normalise(pixels, device, backbone)).float()

    def measure():
        x, read = features.extract_val(backbone, data, how)
        with torch.no_grad():
            return head(x), read.val

    history, (scores, val) = sgd.train(
        model,
        forward,
        listed(files, args.max_unreadable, args.out, "train"),
        labels,
        measure,
        out=begun.out,
        state=run_folder.load_checkpoint(begun.out),
        rates=[(backbone, args.learning_rate), (head, args.head_learning_rate)],
        schedule=partial(schedule, protocol=args.protocol, epochs=args.epochs),
        weight_decay=args.weight_decay,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        crop=partial(
            features.random_crop,
            size=args.size,
            seed=args.seed,
            scale=args.crop_scale,
            flip=not args.no_flip,
        ),
        workers=args.workers,
        device=device,
    )
    data = data._replace(val=val)
    results = sgd.results_of([history])
    guesses = scores.argmax(1).cpu().numpy()
    evaluation.conclude_classes(begun, data, results, guesses)


if __name__ == "__main__":
    run.launch(main, args)
