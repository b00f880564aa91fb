"""Speed and memory, every figure against a baseline of the same run, or as a share of the device's matmul peak.

    python bench.py                    everything: minutes on a GPU, about half an hour on one core of a CPU
    python bench.py views loss step    some of it

views      two 224 px views of a 500x375 JPEG, against the official VICReg pipeline of PIL and torchvision
loss       VICReg's loss and gradient from the n x n Gram matrix, against d x d covariances; its memory at batch 800
step       a VICReg step, ResNet-18 at 64 px, 64 pairs, against a plain one: NCHW, float32, d x d, LARS in a loop
lars       LARS by torch._foreach, against a loop over the parameters (ResNet-50)
mix        loading and training at a mixing rate of 0.5, against 0
memory     a step of ResNet-50, 224 px, 200 pairs in bf16, counted tensor by tensor without computing
maskgit    the published networks with random weights: share of the matmul peak
icgan      the published generator with random weights, against spectral normalisation in each forward, NCHW, float32
fid        the Frechet distance at 2048 dimensions, against scipy's sqrtm as in pytorch-fid
ssim       structural similarity at 256 px, against scikit-image (without it: scipy's filter, called likewise)
features   extraction from JPEG files, against the bare forward pass (ResNet-18, 64 px)
logistic   10,000 x 512 features, 10 classes, against scikit-learn's LogisticRegression

Rounds are interleaved, the median counts. CPU: one thread and its CPU time, so that other processes hardly matter. GPU:
wall time, synchronised; TF32 is off, fp32 means float32. bf16 is measured where the hardware computes in it.
A baseline must give the same values as what it is compared with; otherwise the run ends.
"""

import os

for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

from models.run import autocast, count, fail, parser, run_main, seed_rng, start

NAMES = [line.split()[0] for line in __doc__.split("\n\n")[2].splitlines()]


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", default="all", choices=["all", *NAMES], help="see above")
    p.add_argument("--rounds", type=count, default=3, help="of each comparison")
    p.add_argument("--quick", action="store_true", help="toy sizes: shows that everything runs, the figures mean nothing")
    p.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"], help="auto: a GPU if there is one")
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import contextlib
import copy
import io
import itertools
import random
import time
import warnings
import weakref
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from models.biggan import EPS, Generator, generator_from_state, official_shapes
from models.features import centre_crop, extract
from models.heads import build_method, vicreg_loss
from models.images import read_image, square, write_image
from models.inception import frechet_distance
from models.lars import LARS, METHODS, param_groups
from models.linear import logistic_regression, standardise
from models.maskgit import MASK, MaskGIT
from models.maskgit import PUBLISHED as MASKGIT
from models.resnet import build_backbone
from models.ssim import structural_similarity
from models.views import SPECS, PairDataset, apply_batch
from models.vqgan import PUBLISHED as TOKENIZER
from models.vqgan import VQGAN

CPU, GIB = torch.device("cpu"), 2**30
STEPS = 12  # of MaskGIT's decoding


# ---------------------------------------------------------------- measuring
def report(name, ours="ours", baseline="baseline", ratio="ratio", aim=None):
    ratio = ratio if isinstance(ratio, str) else f"{ratio:.2f}"
    print(f"{name:<33} {ours:<30} {baseline:<37} {ratio:>7}  {aim or '-'}", flush=True)


def clock(device):
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(device, rounds, *functions, warm_up=True):
    """Median seconds of each function, all of them once a round."""
    took = np.zeros((rounds + warm_up, len(functions)))
    for row, (k, function) in itertools.product(took, enumerate(functions)):
        begin = clock(device)
        function()
        row[k] = clock(device) - begin
    return np.median(took[int(warm_up):], axis=0)


def same(what, ours, baseline, tolerance):
    """A baseline that computes something else is none."""
    error = abs(np.asarray(ours, np.float64) - np.asarray(baseline, np.float64)).max()
    if not error <= tolerance * abs(np.asarray(baseline)).max():
        fail(f"{what}: ours and the baseline differ by {error:.2g}: the comparison is void.")


def precisions(device):
    with autocast(device):
        bf16 = torch.is_autocast_enabled(device.type)
    return ["fp32", "bf16"] if bf16 else ["fp32"]


def matmul(device, precision, quick):
    """(a product of two square matrices, its GFLOP): what the device can do at best."""
    n = 128 if quick else 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda: a @ b, 2 * n**3 / 1e9


def gflop(module, *inputs):
    """Of one forward pass, multiplications and additions; everything on the meta device, nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9


class Held(TorchDispatchMode):
    """Bytes of the tensors made inside it: `now` alive, `most` at any time. With fake tensors nothing is allocated."""

    now = most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.known:
                    self.known.add(storage)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.release, storage.nbytes())
        return out

    def __enter__(self):
        self.known = weakref.WeakSet()
        return super().__enter__()

    def release(self, size):
        self.now -= size


# ---------------------------------------------------------------- views
def photographs(folder, number):
    """500x375 JPEGs: random cuts of scikit-learn's two sample photographs, some mirrored; their names."""
    from sklearn.datasets import load_sample_images
    photos, rng = load_sample_images().images, seed_rng(0, "photographs")
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [f"{i:03d}.jpg" for i in range(number)]
    for path in paths:
        image = Image.fromarray(photos[rng.integers(len(photos))][:, ::rng.choice([-1, 1])])
        width = int(rng.integers(500, min(image.width, image.height * 4 // 3) + 1))
        height = width * 3 // 4
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        image = image.resize((500, 375), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        image.save(Path(folder, path), quality=90)
    return paths


def official_views():
    """VICReg's two views as published, of PIL and torchvision."""
    from torchvision import transforms as T

    def blur(image):
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

    def view(blur_p, solarize_p):
        return T.Compose([
            T.RandomResizedCrop(224, interpolation=T.InterpolationMode.BICUBIC), T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), T.RandomGrayscale(0.2),
            T.RandomApply([T.Lambda(blur)], p=blur_p), T.RandomApply([T.Lambda(ImageOps.solarize)], p=solarize_p),
            T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    return view(1.0, 0.0), view(0.1, 0.2)


def views(args, device):
    one, two = official_views()
    with TemporaryDirectory() as folder:
        paths = photographs(folder, 2 if args.quick else 48)
        epochs = itertools.count()

        def official():
            for path in paths:
                with Image.open(Path(folder, path)) as file:
                    image = file.convert("RGB")
                one(image), two(image)

        def ours(data):
            epoch = next(epochs)  # other random choices in each round
            for index in range(len(paths)):
                data[epoch, index]

        data = [PairDataset(folder, paths, "vicreg", 224, on_device=on_device) for on_device in (False, True)]
        pil, whole, crops = len(paths) / seconds(CPU, args.rounds, official, *(partial(ours, d) for d in data))
    report("views on the CPU", f"{whole:.0f} images/s", f"official, PIL: {pil:.0f} images/s", whole / pil, ">= 3.5")
    report("views, colour on the device", f"{crops:.0f} images/s", f"official, PIL: {pil:.0f} images/s", crops / pil,
           ">= 6")


# ---------------------------------------------------------------- loss, optimizer, step
def plain_loss(x, y):
    """VICReg of embeddings (n, d) from two d x d covariances, the way it was published."""
    n, d = x.shape
    loss = 25 * F.mse_loss(x, y)
    for z in (x, y):
        loss = loss + 25 * F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean() / 2
        z = z - z.mean(0)
        loss = loss + (z.T @ z / (n - 1)).fill_diagonal_(0).pow(2).sum() / d
    return loss


@torch.no_grad()
def plain_lars(params, momenta, lr):
    """VICReg's LARS, one parameter after the other."""
    for p, m in zip(params, momenta, strict=True):
        update = p.grad
        if p.ndim > 1:
            update = update.add(p, alpha=1e-6)
            w, u = p.norm(), update.norm()
            update = update * torch.where((w > 0) & (u > 0), 1e-3 * w / u, 1)
        m.mul_(0.9).add_(update)
        p.add_(m, alpha=-lr)


def lars_of(model, lr):
    optimizer = LARS(param_groups(model, METHODS["vicreg"]))
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    return optimizer


def loss(args, device):
    def forward_backward(function, x, y):
        x.grad = None
        value = function(x, y)
        value.backward()
        return value.item(), x.grad.cpu()

    for d in (64, 128) if args.quick else (2048, 8192):
        n = 16 if args.quick else 64
        x, y = torch.randn(2, n, d, device=device).cumsum(0).unbind()
        x = x.clone().requires_grad_()
        gram = partial(forward_backward, lambda x, y: vicreg_loss(x, y)[0], x, y)
        plain = partial(forward_backward, plain_loss, x, y)
        for ours, baseline in zip(gram(), plain(), strict=True):
            same(f"VICReg's loss at {d}", ours, baseline, 1e-4)
        a, b = seconds(device, args.rounds, gram, plain)
        report(f"loss, projector {d}", f"{1e3 * a:.1f} ms", f"d x d covariances: {1e3 * b:.1f} ms", b / a)

    most = []
    for function in (vicreg_loss, plain_loss):
        with FakeTensorMode():
            x, y = torch.empty(2, 800, 8192).unbind()
            x.requires_grad_()
            with Held() as held:
                value = function(x, y)
                (value[0] if isinstance(value, tuple) else value).backward()
            most.append(held.most / GIB)
    report("loss memory, batch 800 at 8192", f"{most[0]:.3f} GiB", f"d x d covariances: {most[1]:.3f} GiB",
           most[1] / most[0], ">= 10")


def lars(args, device):
    model = build_backbone("resnet10" if args.quick else "resnet50")[0].to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    other = copy.deepcopy(model)
    params = list(other.parameters())
    for p, q in zip(params, model.parameters(), strict=True):
        p.grad = q.grad.clone()
    ours = lars_of(model, 1e-3).step
    plain = partial(plain_lars, params, [torch.zeros_like(p) for p in params], 1e-3)
    a, b = seconds(device, 5 * args.rounds, ours, plain)
    for p, q in zip(model.parameters(), params, strict=True):
        same("LARS", p.detach().cpu(), q.detach().cpu(), 1e-4)
    report("lars", f"{1e3 * a:.1f} ms", f"loop over parameters: {1e3 * b:.1f} ms", b / a)


def trainer(model, device, precision):
    """step(crops) -> loss, as 03_pretrain.py takes it."""
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = lars_of(model, 1e-3)

    def step(crops):
        with autocast(device, precision):
            value = model(crops)[0]
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def plain_trainer(model, device):
    params = list(model.to(device).parameters())
    momenta = [torch.zeros_like(p) for p in params]

    def step(crops):
        value = plain_loss(*(model.projector(model.backbone(x)) for x in crops))
        model.zero_grad(set_to_none=True)
        value.backward()
        plain_lars(params, momenta, 1e-3)
        return value.detach()

    return step


def step(args, device):
    n, size = (4, 32) if args.quick else (64, 64)
    crops = torch.randn(2, n, 3, size, size, device=device).unbind()
    ours_crops = [x.to(memory_format=torch.channels_last) for x in crops]
    for d, precision in itertools.product((16, 32) if args.quick else (2048, 8192), precisions(device)):
        backbone, width = build_backbone("resnet10" if args.quick else "resnet18")
        model = build_method("vicreg", backbone, width, projector=(d, d, d))
        plain, ours = plain_trainer(copy.deepcopy(model), device), trainer(model, device, precision)
        same("the first step's loss", ours(ours_crops).cpu(), plain(crops).cpu(), 1e-3 if precision == "fp32" else 1e-2)
        a, b = seconds(device, args.rounds, lambda step=ours: step(ours_crops), lambda step=plain: step(crops),
                       warm_up=False)  # the first step was one
        aim = {2048: ">= 1.8", 8192: ">= 2.8"}.get(d) if precision == "bf16" else None
        report(f"step, projector {d}, {precision}", f"{n / a:.1f} pairs/s", f"plain, fp32: {n / b:.1f} pairs/s", b / a, aim)


def mix(args, device):
    cuda = device.type == "cuda"
    number, batch, size = (4, 4, 32) if args.quick else (1024, 128, 224) if cuda else (64, 64, 64)
    name = "resnet10" if args.quick else "resnet50" if cuda else "resnet18"
    mean, std = SPECS["vicreg"][0]["mean"], SPECS["vicreg"][0]["std"]
    backbone, width = build_backbone(name)
    train = trainer(build_method("vicreg", backbone, width, projector=(512, 512, 512)), device, "auto")
    with TemporaryDirectory() as folder:
        real, mirror = Path(folder, "real"), Path(folder, "generated")
        paths = photographs(real, number)
        for path in paths:
            write_image(mirror / path, square(read_image(real / path), 256))

        def epoch(loader, train):
            for crops, params, _ in loader:
                train([apply_batch(x.to(device, non_blocking=True), p, mean, std)
                       for x, p in zip(crops, params, strict=True)])

        order = [[(0, i) for i in range(first, first + batch)] for first in range(0, number, batch)]
        workers = os.cpu_count() if cuda else 0
        loaders = [DataLoader(PairDataset(real, paths, "vicreg", size, mix=gamma, generated=[mirror], on_device=cuda),
                              batch_sampler=order, num_workers=workers, persistent_workers=cuda, pin_memory=cuda)
                   for gamma in (0.5, 0.0)]
        for what, function, aim in (("mix, loading", lambda crops: None, None), ("mix, training", train, ">= 0.97")):
            half, zero = number / seconds(device, args.rounds, *(partial(epoch, one, function) for one in loaders))
            report(what, f"gamma 0.5: {half:.1f} images/s", f"gamma 0: {zero:.1f} images/s", half / zero, aim)


def memory(args, device):
    pairs, size, d = (4, 64, 32) if args.quick else (200, 224, 8192)
    with FakeTensorMode(), Held() as held:
        backbone, width = build_backbone("resnet10" if args.quick else "resnet50")
        model = build_method("vicreg", backbone, width, projector=(d, d, d)).to(memory_format=torch.channels_last)
        optimizer = lars_of(model, 1e-3)
        crops = [torch.empty(pairs, 3, size, size).to(memory_format=torch.channels_last) for _ in range(2)]
        for _ in range(2):  # the second step has momenta, and the gradients of the first until its own begin
            optimizer.zero_grad(set_to_none=True)
            before = held.now
            with torch.autocast("cpu", torch.bfloat16):
                value = model(crops)[0]
            kept = held.now - before
            value.backward()
            del value
            optimizer.step()
        state = held.now - sum(x.untyped_storage().nbytes() for x in crops)
    report("memory, ResNet-50, 200 pairs", f"at most {held.most / GIB:.1f} GiB", "a GPU's 24 GiB", 24 * GIB / held.most,
           ">= 1")
    print(f"  of these {kept / GIB:.2f} GiB ({kept / 1e9:.1f} GB) kept for the backward pass, {state / GIB:.2f} GiB "
          f"({state / 1e9:.1f} GB) weights, gradients and momenta; no workspaces, no fragmentation")


# ---------------------------------------------------------------- generators
def fill_random(module, device):
    """A module of the meta device on `device`, frozen, weights N(0, 0.02)."""
    module = module.to_empty(device=device).eval().requires_grad_(False)
    for p in module.parameters():
        p.normal_(std=0.02)
    return module


def maskgit(args, device):
    size, batch = (32, 1) if args.quick else (256, 2 if device.type == "cpu" else 32)
    network = MASKGIT | dict(layers=1, dim=32, heads=2, mlp=64) if args.quick else MASKGIT
    tokenizer = TOKENIZER | dict(filters=8, multipliers=[1, 1], groups=4) if args.quick else TOKENIZER
    with torch.device("meta"):
        transformer, tokenizer = MaskGIT(**network).eval(), VQGAN(**tokenizer).eval()
        side = size // tokenizer.patch
        inputs = torch.zeros(1, side**2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        costs = (gflop(transformer, *inputs), gflop(tokenizer.encoder, torch.empty(1, 3, size, size)),
                 gflop(tokenizer.decoder, torch.empty(1, tokenizer.config["dim"], side, side)))
    transformer, tokenizer = fill_random(transformer, device), fill_random(tokenizer, device)
    if device.type == "cuda":  # as 02_augment.py
        tokenizer.to(memory_format=torch.channels_last)
    tokens, labels = (torch.full(shape, value, device=device) for shape, value in (((batch, side**2), MASK), (batch, 0)))
    images, ids = torch.rand(batch, 3, size, size, device=device), tokens.clamp(min=0)
    for precision in precisions(device):
        product, work = matmul(device, precision, args.quick)
        with torch.inference_mode(), autocast(device, precision):
            *took, peak = seconds(device, args.rounds, lambda: transformer(tokens, labels), lambda: tokenizer.encode(images),
                                  lambda: tokenizer.decode(ids), product)
        peak = work / peak
        for part, cost, second in zip(("transformer", "encode", "decode"), costs, took, strict=True):
            speed = batch * cost / second
            aim = (">= 0.65" if part == "transformer" else ">= 0.60") if precision == "bf16" else None
            report(f"maskgit {part}, {precision}", f"{cost:.1f} GFLOP, {speed:.1f} GFLOP/s",
                   f"matmul peak: {peak:.1f} GFLOP/s", speed / peak, aim)
        rate, work = (batch / (STEPS * took[0] + sum(took[1:])), STEPS * costs[0] + sum(costs[1:]))
        report(f"maskgit image, {precision}", f"{rate:.3g} images/s ({STEPS} passes)",
               f"matmul peak: {peak / work:.3g} images/s", rate * work / peak)


def plain_generator(state, config, z, feature):
    """IC-GAN's generator as published, from its state dict: a power iteration in each forward, upsampling first."""
    def weight(name):
        matrix = state[f"{name}.weight"].flatten(1)
        v = F.normalize(state[f"{name}.u0"] @ matrix)
        u = F.normalize(v @ matrix.T)
        return state[f"{name}.weight"] / (v @ matrix.T @ u.T).squeeze()

    def convolve(name, x, padding=0):
        return F.conv2d(x, weight(name), state.get(f"{name}.bias"), padding=padding)

    def modulate(name, x, condition):
        gain, bias = (F.linear(condition, weight(f"{name}.{part}"))[..., None, None] for part in ("gain", "bias"))
        x = F.batch_norm(x, state[f"{name}.stored_mean"], state[f"{name}.stored_var"], eps=EPS)
        return x * (1 + gain) + bias

    first, *chunks = z.split(config["chunk"], 1)
    embedding = F.linear(feature, weight("shared_feat"), state["shared_feat.bias"])
    x = F.linear(first, weight("linear"), state["linear.bias"]).unflatten(1, (-1, 4, 4))
    for i, chunk in enumerate(chunks):
        name, condition = f"blocks.{i}.0", torch.cat([embedding, chunk], 1)
        h = F.interpolate(F.relu(modulate(f"{name}.bn1", x, condition)), scale_factor=2)
        h = F.relu(modulate(f"{name}.bn2", convolve(f"{name}.conv1", h, 1), condition))
        x = convolve(f"{name}.conv2", h, 1) + convolve(f"{name}.conv_sc", F.interpolate(x, scale_factor=2))
        if i in config["attention"]:
            name = f"blocks.{i}.1"
            query, key, value = (convolve(f"{name}.{part}", x) for part in ("theta", "phi", "g"))
            key, value = (F.max_pool2d(part, 2).flatten(2) for part in (key, value))
            scores = torch.bmm(query.flatten(2).transpose(1, 2), key).softmax(-1)
            mixed = torch.bmm(value, scores.transpose(1, 2)).unflatten(2, x.shape[2:])
            x = x + state[f"{name}.gamma"] * convolve(f"{name}.o", mixed)
    name = "output_layer.0"
    x = F.batch_norm(x, state[f"{name}.stored_mean"], state[f"{name}.stored_var"], state[f"{name}.gain"],
                     state[f"{name}.bias"], eps=EPS)
    return torch.tanh(convolve("output_layer.2", F.relu(x), 1))


def icgan(args, device):
    batch, width = (1, 8) if args.quick else (2 if device.type == "cpu" else 32, 96)
    config = dict(channels=[m * width for m in (16, 16, 8, 8, 4, 2, 1)], attention=[3], chunk=17, embedding=512,
                  feature=2048, labels=(1000, 128))
    state = {name: torch.ones(shape) if name.endswith(("stored_var", "gamma", "0.gain")) else torch.randn(shape)
             for name, shape in official_shapes(config).items()}
    generator = generator_from_state(state).to(device)
    state = {name: tensor.to(device) for name, tensor in state.items()}
    z, feature = torch.randn(batch, 7 * 17, device=device), F.normalize(torch.randn(batch, 2048, device=device))
    with torch.device("meta"):
        cost = gflop(Generator(config), torch.empty(1, 7 * 17), torch.empty(1, 2048))

    for precision in precisions(device):
        product, work = matmul(device, precision, args.quick)

        def ours(precision=precision):
            with autocast(device, precision):
                return generator(z, feature)

        def plain():
            return plain_generator(state, config, z, feature)

        with torch.inference_mode():
            a, b, peak = seconds(device, args.rounds, ours, plain, product)
            same("IC-GAN's images", ours().float().cpu(), plain().cpu(), 1e-3 if precision == "fp32" else 0.2)
        peak = work / peak
        report(f"icgan, {precision}", f"{batch / a:.3g} images/s", f"published way, fp32: {batch / b:.3g} images/s", b / a,
               {"fp32": ">= 1.15", "bf16": ">= 2"}[precision])
        report(f"icgan, {precision}, share", f"{cost:.1f} GFLOP, {batch * cost / a:.1f} GFLOP/s",
               f"matmul peak: {peak:.1f} GFLOP/s", batch * cost / a / peak)


# ---------------------------------------------------------------- metrics and evaluation
def plain_frechet(mu1, sigma1, mu2, sigma2):
    """By the square root of the product of the covariances, as pytorch-fid."""
    root = sqrtm(sigma1 @ sigma2).real
    return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root)


def fid(args, device):
    d, rng = 64 if args.quick else 2048, seed_rng(0, "fid")
    statistics = []
    for _ in range(2):
        rows = rng.standard_normal((2 * d, d)) * np.linspace(0.1, 1, d) ** 2  # a spectrum that falls
        statistics += [rows.mean(0), np.cov(rows, rowvar=False)]
    values = {}

    def measure(function):
        values[function] = function(*statistics)

    functions = frechet_distance, plain_frechet
    a, b = seconds(CPU, args.rounds, *(partial(measure, f) for f in functions), warm_up=False)
    same("FID", *(values[f] for f in functions), 1e-6)
    report(f"fid, {d} dimensions", f"{a:.3g} s", f"scipy's sqrtm: {b:.3g} s", b / a, ">= 8")


def plain_ssim(x, y):
    """As scikit-image: five Gaussian filters a channel."""
    smooth, means = partial(gaussian_filter, sigma=1.5, truncate=3.5), []
    for a, b in zip(np.moveaxis(x, 2, 0).astype(float), np.moveaxis(y, 2, 0).astype(float), strict=True):
        mean_a, mean_b = smooth(a), smooth(b)
        var_a, var_b, both = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2, smooth(a * b) - mean_a * mean_b
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        ssim = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        means.append(ssim[5:-5, 5:-5].mean())
    return np.mean(means)


def ssim(args, device):
    try:
        from skimage.metrics import structural_similarity as theirs
        plain, name = partial(theirs, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                              data_range=255), "scikit-image"
    except ImportError:
        plain, name = plain_ssim, "scipy's filter"
    size = 32 if args.quick else 256
    with TemporaryDirectory() as folder:
        x, y = (square(read_image(Path(folder, path)), size) for path in photographs(folder, 2))
    same("SSIM", structural_similarity(x, y), plain(x, y), 1e-6)
    a, b = seconds(CPU, 5 * args.rounds, lambda: structural_similarity(x, y), lambda: plain(x, y))
    report("ssim, 256 px", f"{1e3 * a:.1f} ms", f"{name}: {1e3 * b:.1f} ms", b / a, ">= 4")


def features(args, device):
    number, batch, name = (8, 4, "resnet10") if args.quick else (512, 128, "resnet18")
    if device.type == "cuda":
        number *= 16
    backbone = build_backbone(name)[0].eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    workers = os.cpu_count() if device.type == "cuda" else 0
    with TemporaryDirectory() as folder:
        photo = read_image(Path(folder, photographs(folder, 1)[0]))
        files = [Path(folder, "small", f"{i}.jpg") for i in range(number)]
        for i, file in enumerate(files):
            write_image(file, np.roll(square(photo, 64), i, axis=1))

        @torch.no_grad()
        def bare():
            for _ in range(number // batch):
                with autocast(device, "fp32" if device.type == "cpu" else "auto"):
                    backbone(images)

        def ours():
            with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
                extract(backbone, files, partial(centre_crop, size=64), device, workers=workers, batch=batch)

        a, b = number / seconds(device, args.rounds, ours, bare)
    report("features, ResNet-18, 64 px", f"{a:.0f} images/s", f"bare forward pass: {b:.0f} images/s", a / b, ">= 0.9")


def logistic(args, device):
    from sklearn.linear_model import LogisticRegression
    n, d, classes = (200, 8, 3) if args.quick else (10000, 512, 10)
    generator = torch.Generator().manual_seed(0)
    centres, mixture = (torch.randn(rows, d, generator=generator) for rows in (classes, d))
    y = torch.randint(classes, (n,), generator=generator)
    x = ((0.12 * centres[y] + torch.randn(n, d, generator=generator)) @ mixture / d**0.5).relu()
    standardise(x, CPU)
    there, weights = (x.to(device), y.to(device), torch.ones(n, device=device)), {}
    for decay in (1e-2, 1e-4):
        def ours(decay=decay):
            begin = torch.zeros(classes, d + 1, dtype=torch.float64, device=device)
            weights["ours"] = logistic_regression(*there, decay, begin).cpu()

        def theirs(decay=decay):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # 200 iterations are not always enough
                fit = LogisticRegression(C=1 / (decay * n), max_iter=200).fit(x.numpy(), y.numpy())
            weights["theirs"] = torch.from_numpy(np.column_stack([fit.coef_, fit.intercept_]))

        a, b = seconds(device, args.rounds, ours, theirs)
        losses = [(F.cross_entropy(x @ w[:, :-1].T.float() + w[:, -1].float(), y)
                   + decay / 2 * w[:, :-1].square().sum()).item() for w in weights.values()]
        same("the logistic regressions' losses", *losses, 1e-2)
        report(f"logistic, decay {decay:g}", f"{a:.2f} s", f"scikit-learn: {b:.2f} s", b / a, ">= 1")


# ---------------------------------------------------------------- all
def main(args):
    device = start(args)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if "bf16" not in precisions(device):
        print("bf16 is not measured: this hardware does not compute in it")
    report("figure", aim="aim")
    for name in NAMES if args.names == "all" or "all" in args.names else args.names:
        globals()[name](args, device)


if __name__ == "__main__":
    run_main(main, args)
