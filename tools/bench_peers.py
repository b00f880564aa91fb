"""Ours beside the libraries that a user would otherwise take; those that are installed.

    python tools/bench_peers.py [NAME ...] [--rounds N] [--quick]

views      two 224 px views of a 500x375 JPEG, VICReg's: torchvision v2 (PIL, tensors), kornia,
           albumentations (another resize), lightly
small      SimCLR's views of 32 px images in memory: torchvision on PIL, as solo-learn does it
fid        the Frechet distance at 2048 dimensions: torchmetrics, torch-fidelity, pytorch-fid,
           clean-fid
ssim       structural similarity at 256 px: scikit-image, piqa, torchmetrics
knn        20 neighbours of 500 among 20,000 features of 512: scikit-learn, faiss
logistic   see bench.py

The CPU time of one thread, in turn, the median of the rounds; a ratio above 1 says that ours is
faster. A peer that is missing is named. Peers are no requirement of this project.
"""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # they read it when they are first imported

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # for a start as a file

import itertools
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from bench_evaluation import moments
from bench_tools import CPU, compare, head, in_batches, photographs, report
from bench_views import MEAN, STD, in_memory, published_view
from PIL import Image
from torchvision.transforms import v2

from base import cli, run
from evaluate import features, frechet, ssim
from images.files import read_ahead
from images.pairs import PairDataset
from images.pictures import square
from images.read import read_image
from models.registry import recipe_of


def measure(args, name, unit, ours, peers, scale=1.0, per_second=0):
    """Print a line for each peer: {package: function}, or a function that gives one or raises."""
    functions = {}
    for package, make in peers.items():
        try:
            function = make()
            function()
            version = importlib.metadata.version(package.split()[0])
            functions[f"{package} {version}"] = function
        except ImportError as error:
            print(f"{name}: {package} is not installed ({error})")
    ours()
    mine, *theirs = compare(CPU, args.rounds, ours, *functions.values(), warm_up=False)
    for peer, seconds in zip(functions, theirs, strict=True):
        pair = (per_second / mine, per_second / seconds) if per_second else (mine, seconds)
        report(name, scale * pair[0], unit, peer, scale * pair[1])


# ---------------------------------------------------------------- views
def as_tensors(p):
    """VICReg's view by torchvision v2 on tensors, with the blur's largest kernel of PIL: 13."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(224, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=p[0]),
            v2.RandomSolarize(128, p=p[1]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


BLUR_AND_SOLARIZE = ((1.0, 0.0), (0.1, 0.2))


def bench_views(args):
    number = 2 if args.quick else 32
    with TemporaryDirectory() as folder:
        paths = photographs(folder, number)
        files = [Path(folder, path) for path in paths]
        pairs = PairDataset(folder, paths, recipe_of("vicreg")["views"], 224)
        epochs = itertools.count()

        def ours():
            epoch = next(epochs)
            for index in range(number):
                pairs[epoch, index]

        def images():
            for file in files:
                with Image.open(file) as image:
                    yield image.convert("RGB")

        def on_pil(both):
            for image in images():
                for view in both:
                    view(image)

        def on_tensors(both):
            for image in images():
                pixels = v2.functional.pil_to_tensor(image)
                for view in both:
                    view(pixels)

        def kornia():
            import kornia.augmentation as K

            both = []
            for blur, solarize in BLUR_AND_SOLARIZE:
                steps = [
                    K.RandomResizedCrop((224, 224), resample="bicubic"),
                    K.RandomHorizontalFlip(),
                    K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
                    K.RandomGrayscale(p=0.2),
                    K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=blur),
                    K.RandomSolarize(p=solarize),
                    K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
                ]
                both.append(torch.nn.Sequential(*steps))

            def batched():
                read = [v2.functional.pil_to_tensor(image) for image in images()]
                batch = torch.stack(read).float() / 255
                for view in both:
                    view(batch)

            return batched

        def albumentations():
            import albumentations as A

            both = []
            for blur, solarize in BLUR_AND_SOLARIZE:
                steps = [
                    A.RandomResizedCrop((224, 224), interpolation=3),  # OpenCV's INTER_AREA
                    A.HorizontalFlip(),
                    A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1), p=0.8),
                    A.ToGray(p=0.2),
                    A.GaussianBlur(0, (0.1, 2.0), p=blur),
                    A.Solarize(p=solarize),
                ]
                both.append(A.Compose(steps))

            def read():
                for file in files:
                    image = read_image(file)
                    for view in both:
                        view(image=image)

            return read

        def lightly():
            from lightly.transforms import VICRegTransform

            view = VICRegTransform(224)
            return partial(on_pil, [view])

        pil = [published_view(*p) for p in BLUR_AND_SOLARIZE]
        tensors = [as_tensors(p) for p in BLUR_AND_SOLARIZE]
        peers = {
            "torchvision on PIL": lambda: partial(on_pil, pil),
            "torchvision v2, tensors": lambda: partial(on_tensors, tensors),
            "kornia": kornia,
            "albumentations": albumentations,
            "lightly": lightly,
        }
        measure(args, "views, 224 px, uint8", "images/s", ours, peers, per_second=number)


def bench_small(args):
    number = 8 if args.quick else 256
    with TemporaryDirectory() as folder:
        paths = photographs(folder, number, width=32, height=32, suffix=".png")
        pairs = PairDataset(folder, paths, recipe_of("simclr")["views"], 32)
        small = in_memory(pairs)
        pixels = [Image.fromarray(read_image(Path(folder, path))) for path in paths]
        epochs = itertools.count()

        def ours():
            order = in_batches(number, number // 2, next(epochs))
            list(read_ahead(order, small.batch, 0, CPU))

        def on_pil():
            view = v2.Compose(
                [
                    v2.RandomResizedCrop(32, interpolation=v2.InterpolationMode.BICUBIC),
                    v2.RandomHorizontalFlip(),
                    v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                    v2.RandomGrayscale(0.2),
                    v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], p=0.5),
                    v2.PILToTensor(),
                ]
            )
            return lambda: [view(image) for image in pixels for _ in range(2)]

        peers = {"torchvision v2, PIL": on_pil}
        measure(args, "small, 32 px, in memory", "pairs/s", ours, peers, per_second=number)


# ---------------------------------------------------------------- metrics
def bench_fid(args):
    statistics = moments(64 if args.quick else 2048)
    tensors = [torch.from_numpy(s) for s in statistics]

    def torchmetrics():
        from torchmetrics.image.fid import _compute_fid

        return lambda: _compute_fid(*tensors)

    def fidelity():
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        two = [{"mu": statistics[i], "sigma": statistics[i + 1]} for i in (0, 2)]
        return lambda: fid_statistics_to_metric(*two, verbose=False)

    def pytorch_fid():
        from pytorch_fid.fid_score import calculate_frechet_distance

        return lambda: calculate_frechet_distance(*statistics)

    def clean_fid():
        from cleanfid.fid import frechet_distance

        return lambda: frechet_distance(*statistics)

    peers = {
        "torchmetrics": torchmetrics,
        "torch-fidelity": fidelity,
        "pytorch-fid": pytorch_fid,
        "clean-fid": clean_fid,
    }
    ours = partial(frechet.frechet_distance, *statistics)
    measure(args, "fid, 2048 dimensions", "s", ours, peers)


def bench_ssim(args):
    with TemporaryDirectory() as folder:
        names = photographs(folder, 2)
        size = 32 if args.quick else 256
        pair = [square(read_image(Path(folder, name)), size) for name in names]
    planes = [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in pair]

    def skimage():
        from skimage.metrics import structural_similarity

        how = dict(channel_axis=2, gaussian_weights=True, sigma=1.5, data_range=255)
        return partial(structural_similarity, *pair, use_sample_covariance=False, **how)

    def piqa():
        from piqa import SSIM

        return partial(SSIM(), *[plane / 255 for plane in planes])

    def torchmetrics():
        from torchmetrics.functional.image import structural_similarity_index_measure

        return partial(structural_similarity_index_measure, *planes, data_range=255.0)

    peers = {"scikit-image": skimage, "piqa": piqa, "torchmetrics": torchmetrics}
    ours = partial(ssim.structural_similarity, *pair)
    measure(args, "ssim, 256 px", "ms", ours, peers, scale=1e3)


def bench_knn(args):
    n, d = (200, 16) if args.quick else (20000, 512)
    train, val = torch.randn(n, d), torch.randn(n // 40, d)
    labels = torch.arange(n) % 10
    unit = [torch.nn.functional.normalize(x).numpy() for x in (train, val)]

    def sklearn():
        from sklearn.neighbors import NearestNeighbors

        def search():
            NearestNeighbors(n_neighbors=20, algorithm="brute").fit(unit[0]).kneighbors(unit[1])

        return search

    def faiss():
        import faiss

        faiss.omp_set_num_threads(1)

        def search():
            index = faiss.IndexFlatIP(d)
            index.add(unit[0])
            index.search(unit[1], 20)

        return search

    ours = partial(features.knn, train, labels, val, 10, k=min(20, len(val)))
    peers = {"scikit-learn": sklearn, "faiss-cpu": faiss}
    measure(args, f"knn, {n} x {d}", "s", ours, peers)


FIGURES = {
    "views": bench_views,
    "small": bench_small,
    "fid": bench_fid,
    "ssim": bench_ssim,
    "knn": bench_knn,
}


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", default="all", choices=["all", *FIGURES])
    p.add_argument("--rounds", type=cli.positive, default=3, help="rounds of each comparison")
    p.add_argument("--quick", action="store_true", help="toy sizes: does everything run?")
    return p.parse_args(argv)


def main(args, device):
    torch.set_num_threads(1)
    head()
    for name in FIGURES if "all" in args.names else args.names:
        np.random.seed(0)
        torch.manual_seed(0)
        FIGURES[name](args)


if __name__ == "__main__":
    run.launch(main, arguments())
