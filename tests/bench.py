"""Speed and memory: each figure against a baseline of the same run, or as a share of the device's matmul peak.

    python bench.py [views loss ...]   all of it takes minutes on a GPU, about a quarter of an hour on a CPU

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

Rounds are interleaved, the median counts. CPU: one thread and its CPU time, so that other processes hardly matter.
GPU: wall time, synchronised; TF32 is off. bf16 is measured where the hardware computes in it. A baseline must give the
same values as what it is compared with, or the run ends.
"""

import os

for library in ("OMP", "OPENBLAS", "MKL"):  # before numpy is imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

from models.old_run import autocast, count, fail, parser, run_main, seed_rng, start

NAMES = [line.split()[0] for line in __doc__.split("\n\n")[2].splitlines()]


def arguments(argv=None):
    p = parser(__doc__)
    p.add_argument(
        "names", nargs="*", metavar="NAME", default="all", choices=["all", *NAMES], help="see above"
    )
    p.add_argument("--rounds", type=count, default=3, help="of each comparison")
    p.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes: does everything run? The figures mean nothing",
    )
    p.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cuda", "cpu"],
        help="auto: a GPU if there is one",
    )
    return p.parse_args(argv)


if __name__ == "__main__":
    args = arguments()

import contextlib
import copy
import io
import itertools
import time
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

from models import biggan, heads, inception, linear, maskgit, ssim, views, vqgan
from models.features import centre_crop, extract
from models.images import read_image, square, write_image
from models.lars import LARS, METHODS, param_groups
from models.resnet import build_backbone

CPU, GIB, LAST = torch.device("cpu"), 2**30, torch.channels_last
STEPS = 12  # of MaskGIT's decoding


# ---------------------------------------------------------------- measuring
def report(name, ours, unit, what, baseline, aim="-"):
    """One line; the ratio is above 1 where ours is better: rates (units per second) are divided by the baseline's."""
    ratio = ours / baseline if unit.endswith("/s") else baseline / ours
    print(
        f"{name:<31}{f'{ours:.4g} {unit}':<18}{f'{what}: {baseline:.4g} {unit}':<42}{ratio:>8.3g}  {aim}",
        flush=True,
    )


def clock(device):
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def compare(device, rounds, *functions, warm_up=True, equal=None):
    """Median seconds of each function; all are called once a round.

    equal: by how much the values of the first two may differ, as a share of the largest."""
    took, values = np.zeros((rounds + warm_up, len(functions))), [None] * len(functions)
    for row in took:
        for k, function in enumerate(functions):
            begin = clock(device)
            values[k] = function()
            row[k] = clock(device) - begin
    if equal is not None:
        a, b = (torch.as_tensor(value).detach().cpu().double() for value in values[:2])
        if not (a - b).abs().max() <= equal * b.abs().max():
            fail(
                f"Ours and the baseline differ by {(a - b).abs().max():.2g}: the comparison is void."
            )
    return np.median(took[int(warm_up) :], axis=0)


def precisions(device):
    with autocast(device):
        return ["fp32", "bf16"] if torch.is_autocast_enabled(device.type) else ["fp32"]


def matmul(device, precision, quick):
    """(product of two square matrices, its GFLOP): what the device can do at best."""
    n = 128 if quick else 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(
        2, n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    )
    return lambda: a @ b, 2 * n**3 / 1e9


def gflop(module, *inputs):
    """Of one forward pass; on the meta device nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9


class Held(TorchDispatchMode):
    """Bytes of the tensors made inside it: `now` alive, `most` at any time. Fake tensors allocate nothing."""

    now, most, known = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if (
                isinstance(tensor, torch.Tensor)
                and (storage := tensor.untyped_storage()) not in self.known
            ):
                self.known.add(storage)
                self.change(storage.nbytes())
                weakref.finalize(storage, self.change, -storage.nbytes())
        return out

    def change(self, size):
        self.now += size
        self.most = max(self.most, self.now)


# ---------------------------------------------------------------- views
def photographs(folder, number):
    """500x375 JPEGs: random cuts of scikit-learn's two sample photographs, some mirrored; their names."""
    from sklearn.datasets import load_sample_images

    photos, rng = load_sample_images().images, seed_rng(0, "photographs")
    paths = [f"{i:03d}.jpg" for i in range(number)]
    Path(folder).mkdir(exist_ok=True)
    for path in paths:
        image = Image.fromarray(photos[rng.integers(len(photos))][:, :: rng.choice([-1, 1])])
        width = int(rng.integers(500, min(image.width, image.height * 4 // 3) + 1))
        left, top = rng.integers(
            (image.width - width + 1, image.height - width * 3 // 4 + 1)
        ).tolist()
        box = left, top, left + width, top + width * 3 // 4
        image.resize((500, 375), Image.Resampling.BICUBIC, box).save(Path(folder, path), quality=90)
    return paths


def bench_views(args, device):
    from torchvision import transforms as T

    def published(blur_p, solarize_p):
        blur = T.Lambda(
            lambda image: image.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2.0)))
        )
        return T.Compose(
            [
                T.RandomResizedCrop(224, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                T.RandomGrayscale(0.2),
                T.RandomApply([blur], p=blur_p),
                T.RandomApply([T.Lambda(ImageOps.solarize)], p=solarize_p),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    one, two, epochs = published(1.0, 0.0), published(0.1, 0.2), itertools.count()
    with TemporaryDirectory() as folder:
        paths = photographs(folder, 2 if args.quick else 48)

        def official():
            for path in paths:
                with Image.open(Path(folder, path)) as file:
                    image = file.convert("RGB")
                one(image), two(image)

        def ours(data):
            epoch = next(epochs)  # new random choices each round
            for index in range(len(paths)):
                data[epoch, index]

        data = [
            views.PairDataset(folder, paths, "vicreg", 224, on_device=choice)
            for choice in (False, True)
        ]
        pil, whole, crops = len(paths) / compare(
            CPU, args.rounds, official, *(partial(ours, d) for d in data)
        )
    report("views, all on the CPU", whole, "images/s", "official, PIL", pil, ">= 3.5")
    report(
        "views, decoding and crops",
        crops,
        "images/s",
        "official, PIL",
        pil,
        ">= 6 (colour on the device)",
    )


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


def lars(model, lr, plain=False):
    """A function that updates the model by VICReg's LARS: ours, or as published one parameter after the other."""
    if not plain:
        optimizer = LARS(param_groups(model, METHODS["vicreg"]))
        for group in optimizer.param_groups:
            group["lr"] = lr
        return optimizer.step
    momenta = [torch.zeros_like(p) for p in model.parameters()]

    @torch.no_grad()
    def update():
        for p, m in zip(model.parameters(), momenta, strict=True):
            change = p.grad
            if p.ndim > 1:
                change = change.add(p, alpha=1e-6)
                w, c = p.norm(), change.norm()
                change = change * torch.where((w > 0) & (c > 0), 1e-3 * w / c, 1)
            m.mul_(0.9).add_(change)
            p.add_(m, alpha=-lr)

    return update


def trainer(model, device, precision, plain=False):
    """step(crops) -> loss, as in 03_pretrain.py or as published; at a learning rate of 0, which costs the same."""
    model = model.to(device, memory_format=torch.contiguous_format if plain else LAST)
    update = lars(model, 0.0, plain)

    def step(crops):
        with autocast(device, precision):
            if plain:
                loss = plain_loss(*(model.projector(model.backbone(x)) for x in crops))
            else:
                loss = model([x.contiguous(memory_format=LAST) for x in crops])[0]
        model.zero_grad(set_to_none=True)
        loss.backward()
        update()
        return loss

    return step


def bench_loss(args, device):
    def forward_backward(function, x, y):
        x.grad = None
        loss = function(x, y)
        loss.backward()
        return loss

    forms = [
        partial(forward_backward, f) for f in (lambda x, y: heads.vicreg_loss(x, y)[0], plain_loss)
    ]
    for d in (64, 128) if args.quick else (2048, 8192):
        x, y = torch.randn(2, 16 if args.quick else 64, d, device=device).cumsum(0)
        a, b = 1e3 * compare(
            device, args.rounds, *(partial(f, x.requires_grad_(), y) for f in forms), equal=1e-4
        )
        report(f"loss, projector {d}", a, "ms", "d x d covariances", b)
    most = []
    for form in forms:
        with FakeTensorMode():
            x, y = torch.empty(2, 800, 8192)
            with Held() as held:
                form(x.requires_grad_(), y)
        most.append(held.most / GIB)
    report("loss, memory at 800 x 8192", most[0], "GiB", "d x d covariances", most[1], ">= 10")


def bench_step(args, device):
    name, n, size = ("resnet10", 4, 32) if args.quick else ("resnet18", 64, 64)
    crops = torch.randn(2, n, 3, size, size, device=device).unbind()
    for d, precision in itertools.product(
        (16, 32) if args.quick else (2048, 8192), precisions(device)
    ):
        model = heads.build_method("vicreg", *build_backbone(name), projector=(d, d, d))
        steps = (
            trainer(copy.deepcopy(model), device, precision),
            trainer(model, device, "fp32", plain=True),
        )
        a, b = n / compare(
            device,
            args.rounds,
            *(partial(step, crops) for step in steps),
            equal=1e-3 if precision == "fp32" else 2e-2,
        )
        aim = {2048: ">= 1.8", 8192: ">= 2.8"}.get(d, "-") if precision == "bf16" else "-"
        report(f"step, projector {d}, {precision}", a, "pairs/s", "plain, fp32", b, aim)


def bench_lars(args, device):
    models = [build_backbone("resnet10" if args.quick else "resnet50")[0].to(device)]
    models.append(copy.deepcopy(models[0]))
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        p.grad = q.grad = torch.randn_like(p)

    def step(model, update):
        update()
        return model.layer4[0].conv1.weight

    steps = [
        partial(step, model, lars(model, 1e-3, plain))
        for model, plain in zip(models, (False, True), strict=True)
    ]
    a, b = 1e3 * compare(device, 5 * args.rounds, *steps, equal=1e-4)
    report("lars, ResNet-50", a, "ms", "loop over parameters", b)


def bench_mix(args, device):
    cuda, norm = device.type == "cuda", (views.BASE["mean"], views.BASE["std"])
    name, number, batch, size = (
        ("resnet10", 4, 4, 32)
        if args.quick
        else ("resnet50", 1024, 128, 224)
        if cuda
        else ("resnet18", 64, 64, 64)
    )
    train = trainer(
        heads.build_method("vicreg", *build_backbone(name), projector=(512, 512, 512)),
        device,
        "auto",
    )

    def epoch(loader, use):
        for crops, params, _ in loader:
            use(
                [
                    views.apply_batch(x.to(device), p, *norm)
                    for x, p in zip(crops, params, strict=True)
                ]
            )

    with TemporaryDirectory() as folder:
        real, mirror = Path(folder, "real"), Path(folder, "generated")
        paths = photographs(real, number)
        for path in paths:
            write_image(mirror / path, square(read_image(real / path), 256))
        order = [[(0, i) for i in range(first, first + batch)] for first in range(0, number, batch)]
        data = [
            views.PairDataset(
                real, paths, "vicreg", size, mix=gamma, generated=[mirror], on_device=cuda
            )
            for gamma in (0.5, 0.0)
        ]
        loaders = [
            DataLoader(
                d,
                batch_sampler=order,
                num_workers=os.cpu_count() if cuda else 0,
                pin_memory=cuda,
                persistent_workers=cuda,
            )
            for d in data
        ]
        for what, use, aim in (("views", len, "-"), ("views and step", train, ">= 0.97")):
            half, zero = number / compare(
                device, args.rounds, *(partial(epoch, one, use) for one in loaders)
            )
            report(f"mix, gamma 0.5, {what}", half, "images/s", "gamma 0", zero, aim)


def bench_memory(args, device):
    name, pairs, size, d = ("resnet10", 4, 64, 32) if args.quick else ("resnet50", 200, 224, 8192)
    with FakeTensorMode(), Held() as held:
        model = heads.build_method("vicreg", *build_backbone(name), projector=(d, d, d))
        update = lars(model, 0.0)
        crops = [torch.empty(pairs, 3, size, size).to(memory_format=LAST) for _ in range(2)]
        for _ in range(2):  # only the second step begins with momenta
            model.zero_grad(set_to_none=True)
            before = held.now
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(crops)[0]
            kept = held.now - before
            loss.backward()
            del loss
            update()
    state = 3 * sum(p.numel() * p.itemsize for p in model.parameters())
    report(
        "memory, ResNet-50, 200 pairs",
        held.most / GIB,
        "GiB",
        "a GPU's",
        24,
        ">= 1 (without workspaces)",
    )
    print(
        f"  of it {kept / GIB:.1f} GiB ({kept / 1e9:.1f} GB) kept for the backward pass, {state / GIB:.1f} GiB "
        f"({state / 1e9:.1f} GB) weights, gradients and momenta"
    )


# ---------------------------------------------------------------- generators
def bench_maskgit(args, device):
    size, batch = (32, 1) if args.quick else (256, 2 if device.type == "cpu" else 32)
    toys = dict(layers=1, dim=32, heads=2, mlp=64, tokens=4), dict(filters=8, groups=4)
    with torch.device("meta"):
        transformer = maskgit.MaskGIT(**maskgit.PUBLISHED | (toys[0] if args.quick else {})).eval()
        tokenizer = vqgan.VQGAN(**vqgan.PUBLISHED | (toys[1] if args.quick else {}))
        tokens, image = (
            torch.zeros(1, transformer.config["tokens"]).long(),
            torch.zeros(1, 3, size, size),
        )
        latent = torch.zeros(
            1, tokenizer.config["dim"], size // tokenizer.patch, size // tokenizer.patch
        )
        costs = np.array(
            [
                gflop(transformer, tokens, tokens[:, 0]),
                gflop(tokenizer.encoder, image),
                gflop(tokenizer.decoder, latent),
            ]
        )
    transformer, tokenizer = (
        m.to_empty(device=device).requires_grad_(False) for m in (transformer, tokenizer)
    )
    for p in itertools.chain(transformer.parameters(), tokenizer.parameters()):
        p.normal_(std=0.02)
    if device.type == "cuda":  # as in 02_augment.py
        tokenizer.to(memory_format=LAST)
    tokens = torch.zeros(batch, tokens.shape[1], dtype=torch.int64, device=device)
    image = torch.rand(batch, 3, size, size, device=device)
    for precision in precisions(device):
        product, work = matmul(device, precision, args.quick)
        functions = (
            partial(transformer, torch.full_like(tokens, maskgit.MASK), tokens[:, 0]),
            partial(tokenizer.encode, image),
            partial(tokenizer.decode, tokens),
            product,
        )
        with torch.inference_mode(), autocast(device, precision):
            *took, peak = compare(device, args.rounds, *functions)
        parts = (("transformer", 0.65), ("encoder", 0.6), ("decoder", 0.6))
        for (part, aim), cost, second in zip(parts, costs, took, strict=True):
            report(
                f"maskgit, {part}, {precision}",
                batch * cost / second,
                "GFLOP/s",
                "matmul",
                work / peak,
                f">= {aim}" if precision == "bf16" else "-",
            )
        passes = np.array([STEPS, 1, 1])
        report(
            f"maskgit, image, {precision}",
            batch / (passes @ took),
            "images/s",
            "at the speed of matmul",
            work / peak / (passes @ costs),
        )


def plain_generator(state, config, z, feature):
    """IC-GAN's generator as published, from its state dict: a power iteration in each forward, upsampling first."""

    def weight(name):
        matrix = state[f"{name}.weight"].flatten(1)
        v = F.normalize(state[f"{name}.u0"] @ matrix)
        u = F.normalize(v @ matrix.T)
        return state[f"{name}.weight"] / (v @ matrix.T @ u.T).squeeze()

    def convolve(name, x):
        return F.conv2d(
            x, kernel := weight(name), state.get(f"{name}.bias"), padding=kernel.shape[-1] // 2
        )

    def norm(name, x, gain, bias):
        x = F.batch_norm(x, state[f"{name}.stored_mean"], state[f"{name}.stored_var"], eps=1e-5)
        return F.relu(x * gain[..., None, None] + bias[..., None, None])

    def modulate(name, x, condition):
        gain, bias = (F.linear(condition, weight(f"{name}.{part}")) for part in ("gain", "bias"))
        return norm(name, x, 1 + gain, bias)

    up = partial(F.interpolate, scale_factor=2)
    first, *chunks = z.split(config["chunk"], 1)
    embedding = F.linear(feature, weight("shared_feat"), state["shared_feat.bias"])
    x = F.linear(first, weight("linear"), state["linear.bias"]).unflatten(1, (-1, 4, 4))
    for i, chunk in enumerate(chunks):
        name, condition = f"blocks.{i}.0", torch.cat([embedding, chunk], 1)
        h = convolve(f"{name}.conv1", up(modulate(f"{name}.bn1", x, condition)))
        x = convolve(f"{name}.conv2", modulate(f"{name}.bn2", h, condition)) + convolve(
            f"{name}.conv_sc", up(x)
        )
        if i in config["attention"]:
            name = f"blocks.{i}.1"
            query, key, value = (convolve(f"{name}.{part}", x) for part in ("theta", "phi", "g"))
            key, value = (F.max_pool2d(part, 2).flatten(2) for part in (key, value))
            scores = (query.flatten(2).transpose(1, 2) @ key).softmax(-1)
            mixed = (value @ scores.transpose(1, 2)).unflatten(2, x.shape[2:])
            x = x + state[f"{name}.gamma"] * convolve(f"{name}.o", mixed)
    x = norm("output_layer.0", x, state["output_layer.0.gain"], state["output_layer.0.bias"])
    return torch.tanh(convolve("output_layer.2", x))


def bench_icgan(args, device):
    batch, width = (1, 8) if args.quick else (2 if device.type == "cpu" else 32, 96)
    config = dict(
        channels=[m * width for m in (16, 16, 8, 8, 4, 2, 1)],
        attention=[3],
        chunk=17,
        embedding=512,
        feature=2048,
        labels=(1000, 128),
    )
    state = {
        name: torch.ones(shape)
        if name.endswith(("stored_var", "gamma", "0.gain"))
        else torch.randn(shape)
        for name, shape in biggan.official_shapes(config).items()
    }
    generator = biggan.generator_from_state(state).to(device)
    state = {name: tensor.to(device) for name, tensor in state.items()}
    inputs = (
        torch.randn(batch, 7 * 17, device=device),
        F.normalize(torch.randn(batch, 2048, device=device)),
    )
    cost = gflop(copy.deepcopy(generator).to("meta"), *(x.to("meta") for x in inputs))

    def ours(precision):
        with autocast(device, precision):
            return generator(*inputs)

    for precision, equal, aim in (("fp32", 1e-3, ">= 1.15"), ("bf16", 0.2, ">= 2"))[
        : len(precisions(device))
    ]:
        product, work = matmul(device, precision, args.quick)
        with torch.inference_mode():
            a, b, peak = compare(
                device,
                args.rounds,
                partial(ours, precision),
                partial(plain_generator, state, config, *inputs),
                product,
                equal=equal,
            )
        report(f"icgan, {precision}", batch / a, "images/s", "as published, fp32", batch / b, aim)
        report(f"icgan, {precision}, share of peak", cost / a, "GFLOP/s", "matmul", work / peak)


# ---------------------------------------------------------------- metrics and evaluation
def bench_fid(args, device):
    def plain(mu1, sigma1, mu2, sigma2):  # as pytorch-fid
        root = sqrtm(sigma1 @ sigma2).real
        return np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root)

    d, rng, statistics = 64 if args.quick else 2048, seed_rng(0, "fid"), []
    for _ in range(2):
        rows = (
            rng.standard_normal((2 * d, d)) * np.linspace(0.1, 1, d) ** 2
        )  # a spectrum that falls
        statistics += [rows.mean(0), np.cov(rows, rowvar=False)]
    functions = (partial(f, *statistics) for f in (inception.frechet_distance, plain))
    a, b = compare(CPU, args.rounds, *functions, warm_up=False, equal=1e-6)
    report("fid, 2048 dimensions", a, "s", "scipy's sqrtm", b, ">= 8")


def plain_ssim(x, y):
    """As scikit-image does it: five Gaussian filters a channel."""
    smooth, c1, c2 = partial(gaussian_filter, sigma=(1.5, 1.5, 0), truncate=3.5), ssim.C1, ssim.C2
    x, y = x.astype(float), y.astype(float)
    m, n, xx, yy, xy = (smooth(part) for part in (x, y, x * x, y * y, x * y))
    s = (
        (2 * m * n + c1)
        * (2 * (xy - m * n) + c2)
        / ((m * m + n * n + c1) * (xx - m * m + yy - n * n + c2))
    )
    return s[5:-5, 5:-5].mean()


def bench_ssim(args, device):
    name, theirs = "scipy's filter", plain_ssim
    with contextlib.suppress(ImportError):
        from skimage.metrics import structural_similarity

        name, theirs = (
            "scikit-image",
            partial(
                structural_similarity,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
            ),
        )
    with TemporaryDirectory() as folder:
        pair = [
            square(read_image(Path(folder, path)), 32 if args.quick else 256)
            for path in photographs(folder, 2)
        ]
    functions = partial(ssim.structural_similarity, *pair), partial(theirs, *pair)
    a, b = 1e3 * compare(CPU, 5 * args.rounds, *functions, equal=1e-6)
    report("ssim, 256 px", a, "ms", name, b, ">= 4")


def bench_features(args, device):
    cuda = device.type == "cuda"
    name, number, batch = (
        ("resnet10", 8, 4) if args.quick else ("resnet18", 8192 if cuda else 512, 128)
    )
    backbone = build_backbone(name)[0].eval().to(device, memory_format=LAST)
    images = torch.randn(batch, 3, 64, 64, device=device).to(memory_format=LAST)
    with TemporaryDirectory() as folder:
        file = Path(folder, "small.jpg")
        write_image(file, square(read_image(Path(folder, *photographs(folder, 1))), 64))

        @torch.no_grad()
        def bare():
            with autocast(device, "auto" if cuda else "fp32"):
                for _ in range(number // batch):
                    backbone(images)

        ours = partial(
            extract,
            backbone,
            [file] * number,
            partial(centre_crop, size=64),
            device,
            workers=os.cpu_count() if cuda else 0,
            batch=batch,
        )
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bars
            a, b = number / compare(device, args.rounds, ours, bare)
    report("features, ResNet-18, 64 px", a, "images/s", "bare forward pass", b, ">= 0.9")


def bench_logistic(args, device):
    from sklearn.linear_model import LogisticRegression

    n, d, classes = (200, 8, 3) if args.quick else (10000, 512, 10)
    y = torch.randint(classes, (n,))
    x = (
        (0.12 * torch.randn(classes, d)[y] + torch.randn(n, d)) @ torch.randn(d, d) / d**0.5
    ).relu()
    linear.standardise(x, CPU)
    there = x.to(device), y.to(device), torch.ones(n, device=device)

    def objective(weights, decay):
        return (
            F.cross_entropy(linear.scores(weights, x), y)
            + decay / 2 * weights[:, :-1].square().sum()
        )

    def ours(decay):
        zeros = torch.zeros(classes, d + 1, dtype=torch.float64, device=device)
        return objective(linear.logistic_regression(*there, decay, zeros).cpu(), decay)

    def theirs(decay):
        fit = LogisticRegression(C=1 / (decay * n), max_iter=1000).fit(x.numpy(), y.numpy())
        return objective(torch.from_numpy(np.column_stack([fit.coef_, fit.intercept_])), decay)

    for decay in (1e-2, 1e-4):
        a, b = compare(
            device, args.rounds, partial(ours, decay), partial(theirs, decay), equal=1e-2
        )
        report(f"logistic, weight decay {decay:g}", a, "s", "scikit-learn", b, ">= 1")


# ---------------------------------------------------------------- all
def main(args):
    device = start(args)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if "bf16" not in precisions(device):
        print("bf16 is not measured: this hardware does not compute in it")
    print(f"{'figure':<31}{'ours':<18}{'baseline':<42}{'ratio':>8}  aim")
    for name in NAMES if "all" in args.names else args.names:
        globals()[f"bench_{name}"](args, device)


if __name__ == "__main__":
    run_main(main, args)
