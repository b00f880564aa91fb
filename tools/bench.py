"""Speed and memory: each figure beside a baseline of the same run.

    python tools/bench.py [NAME ...]

All figures take minutes on a GPU and about a quarter of an hour on a CPU. The names are:

views      two 224 px views of a 500x375 JPEG; the official VICReg pipeline of PIL and torchvision
colour     the colour half of views, a batch at once on the device; image by image on the CPU
small      SimCLR's views of 32 px images that are held in memory; of the same images in PNG files
loss       VICReg's loss and gradient from n x n Gram matrices; from d x d covariances.
           Also its memory at batch 800
step       a VICReg step, ResNet-18 at 64 px, 64 pairs; a plain one: NCHW, float32, d x d
           covariances, LARS in a loop
lars       LARS by torch._foreach; a loop over the parameters (ResNet-50)
mix        loading and training at a mixing rate of 0.5; at a mixing rate of 0
memory     a step of ResNet-50, 224 px, 200 pairs in bf16, counted without computing; 24 GiB
maskgit    the published networks with random weights; the device's largest matrix products
icgan      the published generator with random weights; spectral normalisation in each forward
           pass, NCHW, float32
fid        the Frechet distance at 2048 dimensions; with scipy's sqrtm as in pytorch-fid
ssim       structural similarity at 256 px; scikit-image, or without it scipy's filter
features   features of JPEG files; the bare forward pass (ResNet-18, 64 px)
logistic   10,000 x 512 features, 10 classes; scikit-learn's LogisticRegression

After the semicolon stands the baseline. A ratio above 1 says that ours is better. The functions are
called in turn, and the median of the rounds counts. On a CPU it is the CPU time of one thread,
which other programs hardly change. On a GPU it is wall time. float32 means float32, and bf16 is
measured where the hardware computes in it. A baseline must give the same values as what it is
compared with, or the run ends.
"""

import importlib
import os
import sys
from pathlib import Path

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"  # they read it when they are first imported

ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(ROOT), str(ROOT / "tests")]  # for a start as a file

from base import cli, run

FILES = {  # name of a figure: the file that has its function, bench_NAME
    "views": "bench_views",
    "colour": "bench_views",
    "small": "bench_views",
    "loss": "bench_training",
    "step": "bench_training",
    "lars": "bench_training",
    "mix": "bench_training",
    "memory": "bench_training",
    "maskgit": "bench_generators",
    "icgan": "bench_generators",
    "fid": "bench_evaluation",
    "ssim": "bench_evaluation",
    "features": "bench_evaluation",
    "logistic": "bench_evaluation",
}


def arguments(argv=None):
    p = cli.parser(__doc__)
    p.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        default="all",
        choices=["all", *FILES],
        help="figures of the list above; all of them if none is named",
    )
    p.add_argument("--rounds", type=cli.positive, default=3, help="rounds of each comparison")
    p.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes, which show that everything runs; the figures then mean nothing",
    )
    p.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cuda", "cpu"],
        help="where to compute; auto takes a GPU if there is one",
    )
    return p.parse_args(argv)


def main(args, device):
    import torch
    from bench_tools import head, precisions

    torch.set_num_threads(1)
    if "bf16" not in precisions(device):
        print("bf16 is not measured: this hardware does not compute in it.")
    head()
    for name in FILES if "all" in args.names else args.names:
        module = importlib.import_module(FILES[name])
        figure = getattr(module, f"bench_{name}")
        torch.manual_seed(0)
        figure(args, device)


if __name__ == "__main__":
    run.launch(main, arguments())
