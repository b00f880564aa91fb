"""Section `parity` of gpu_check.py: the GPU's values against the CPU's, from the same inputs."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from gpu_tools import PROJECTORS, installed, relative, stage

from augment.masks import shares
from base import run
from evaluate import linear
from evaluate.features import accuracy, knn
from images import batch_views, views
from images.read import read_image
from models import biggan, maskgit, registry
from models.lars import build_optimizer
from models.resnet import build_backbone

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
CPU = torch.device("cpu")


def parity(report, device, workshop):
    with report.guard("losses and gradients"):
        methods(report, device)
    with report.guard("optimizers"):
        optimizers(report, device)
    with report.guard("colour"):
        colour(report, device)
    with report.guard("MaskGIT"):
        decoding(report, device)
    with report.guard("IC-GAN"):
        icgan(report, device)
    with report.guard("evaluations"):
        evaluations(report, device)
    with report.guard("Inception"):
        inception(report, device)
    with report.guard("diffusion"):
        diffusion(report, device, workshop)
    with report.guard("captions"):
        captions(report, device, workshop)


# ---------------------------------------------------------------- training
def loss_and_gradient(model, crops, device, precision):
    """(loss, all gradients in one vector) of a copy of the model on the device."""
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    crops = [x.to(device, memory_format=torch.channels_last) for x in crops]
    with run.autocast(device, precision):
        loss = model(crops[:2], crops[2:], 1.0)[0]
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss, torch.cat(gradients)


def methods(report, device):
    """Losses by relative difference, gradients too, in bf16 by their angle.

    The networks are small: in deeper ones a few ReLUs that switch make 1 % of the gradient. On a
    CPU float32 differs from float64 by 1e-6 of the loss and 2e-5 of the gradient, bf16 from float32
    by 0.6 % of the loss and a cosine of 0.95.
    """
    for method in registry.METHODS:
        torch.manual_seed(0)
        backbone, width = build_backbone("resnet10", small_images=True)
        projector = PROJECTORS.get(method, "64-64")
        model = registry.build_method(method, backbone, width, projector=projector)
        crops = [torch.randn(8, 3, size, size) for size in (32, 32, 16)]
        expected = loss_and_gradient(model, crops, CPU, "fp32")
        for precision, limit in (("fp32", 1e-4), ("bf16", 2e-2)):
            found = loss_and_gradient(model, crops, device, precision)
            report.at_most(f"{method}, {precision}: loss", relative(found[0], expected[0]), limit)
            name = f"{method}, {precision}: gradient"
            if precision == "fp32":
                report.at_most(name, relative(found[1], expected[1]), 1e-3)
            else:
                cosine = torch.cosine_similarity(found[1].cpu(), expected[1], 0)
                report.at_least(f"{name}'s cosine", float(cosine), 0.9)


def optimizers(report, device):
    """Five steps from the same gradients."""
    for method in ("vicreg", "swav", "dino"):
        torch.manual_seed(0)
        model = build_backbone("resnet10")[0]
        moved = copy.deepcopy(model).to(device)
        steps = [(model, CPU), (moved, device)]
        steps = [(m, d, build_optimizer(m, registry.recipe_of(method))) for m, d in steps]
        for number in range(5):
            for network, where, optimizer in steps:
                generator = torch.Generator().manual_seed(number)
                for p in network.parameters():
                    p.grad = torch.randn(p.shape, generator=generator).to(where)
                for group in optimizer.param_groups:
                    group["lr"] = 0.1
                optimizer.step()
        vectors = [torch.nn.utils.parameters_to_vector(m.parameters()) for m in (moved, model)]
        kind = registry.recipe_of(method)["optimizer"]
        report.at_most(f"{kind}: weights after five steps", relative(*vectors), 1e-5)


def colour(report, device):
    """The colour of views in levels of 0 to 255: a batch on the device, the same on the CPU."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (64, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    images = (smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8)
    for name, view in (("first", views.FIRST), ("second", views.SECOND)):
        rows = []
        for number in range(len(images)):
            draw = run.seed_rng(0, name, number)
            rows.append(views.draw_choices(view, 64, 64, draw)[2])
        one_by_one = [views.colour(x, row) for x, row in zip(images, rows, strict=True)]
        choices = torch.from_numpy(np.stack(rows))
        on_cpu = levels(images, choices, CPU)
        on_device = levels(images, choices, device)
        same = np.mean(np.abs(on_device - on_cpu) < 1.5)
        report.at_least(f"{name} view: share within one level", same, 0.995)
        apart = np.abs(on_device - np.stack(one_by_one)).mean()
        report.at_most(f"{name} view, image by image: mean difference", apart, 1.0, " levels")


def levels(images, choices, device):
    batch = torch.from_numpy(images).to(device)
    found = batch_views.colour_and_normalise(batch, choices, (0, 0, 0), (1, 1, 1))
    return (255 * found).permute(0, 2, 3, 1).cpu().numpy()


# ---------------------------------------------------------------- generators
def decoding(report, device):
    """The five decoding traces of the official code, token for token."""
    from models.published_maskgit import load_maskgit

    tokenizer, transformer, _ = load_maskgit(GOLDENS / "maskgit")
    tokenizer.to(device)
    transformer.to(device)
    golden = np.load(GOLDENS / "maskgit/network.npz")
    image = torch.from_numpy(golden["image"]).permute(0, 3, 1, 2).contiguous().float() / 255
    for precision, least in (("fp32", 1.0), ("bf16", 0.9)):  # of 128; bf16 differs from CPU to CPU
        with torch.no_grad(), run.autocast(device, precision):
            ids = tokenizer.encode(image.to(device)).cpu().numpy().reshape(2, 8, 8)
            equal = np.mean(ids == golden["encode_ids"])
            report.at_least(f"tokenizer, {precision}: share of equal tokens", equal, least)
    traces = np.load(GOLDENS / "maskgit/decoding.npz")
    for name in ("it12", "it8", "edit12_start2", "gen16", "edge8"):
        with torch.no_grad(), run.autocast(device, "fp32"):
            equal = trace(transformer, traces, name, device)
        report.at_least(f"decoding {name}, fp32: share of equal tokens", equal, 1.0)


def trace(transformer, golden, name, device):
    """Share of the final tokens that are those of the official code, from its recorded noise."""
    arrays = {}
    for key in golden:
        if name in key:
            arrays[key.split("/")[1]] = golden[key]
    steps, start = arrays["steps"].tolist()
    ids = torch.from_numpy(arrays["input"]).long().to(device)
    sample = torch.from_numpy(arrays["sample"]).to(device)
    choice = torch.from_numpy(arrays["choice"]).to(device)

    def predict(tokens, unknown):
        return transformer(tokens, ids[:, 0] - 64, unknown)

    def draw(step, logits, unknown):
        return (logits + sample[step - start][unknown]).argmax(1)

    def noise(step):
        return choice[step - start]

    final = maskgit.decode(predict, ids[:, 1:], draw, noise, shares("cosine", steps), start)
    return np.mean(final.cpu().numpy() == arrays["final"])


def icgan(report, device):
    """The official generator's images."""
    state = torch.load(GOLDENS / "icgan/release/G_ema_best0.pth", weights_only=True)
    golden = np.load(GOLDENS / "icgan/images.npz")
    generator = biggan.generator_from_state(state).to(device)
    z = torch.from_numpy(golden["tiny_z"]).to(device)
    feature = torch.from_numpy(golden["tiny_feature"]).to(device)
    with torch.no_grad():
        images = generator(z, feature).cpu()
    apart = (images - torch.from_numpy(golden["tiny_image"])).abs().max()
    report.at_most("images in [-1, 1], fp32: largest difference", float(apart), 1e-3)


def both_devices(device, workshop, name, *words):
    """The outputs of a stage on the CPU and on the device."""
    outputs = []
    for where in ("cpu", device.type):
        out = workshop.folder / f"{name}-{len(outputs)}-{where}"
        stage(*words, "--out", out, "--device", where, "--workers", 0)
        outputs.append(out)
    return outputs


def diffusion(report, device, workshop):
    """A tiny SDXL and a tiny DDIM pipeline."""
    installed("diffusers", "transformers")
    import tiny_pipelines

    train = workshop.images() / "train"
    for kind, more in (("sdxl", ["--no-caption"]), ("ddim", [])):
        model = getattr(tiny_pipelines, kind)(workshop.folder / kind)
        words = ["02_augment.py", "diffusion", "--data", train, "--model", model, *more]
        words += ["--strength", 0.5, "--precision", "fp32"]
        folders = both_devices(device, workshop, f"{kind}-views", *words)
        apart = []
        for path in sorted(folders[0].rglob("view0/*/*.png")):
            images = [read_image(folder / path.relative_to(folders[0])) for folder in folders]
            apart.append(np.abs(images[0].astype(float) - images[1]).mean())
        report.at_most(f"{kind}, fp32: mean difference in levels", np.mean(apart), 2)


def captions(report, device, workshop):
    """A tiny BLIP's captions."""
    installed("transformers")
    import tiny_pipelines

    model = tiny_pipelines.blip(workshop.folder / "blip")
    train = workshop.images() / "train"
    words = ["01_caption.py", "--data", train, "--model", model, "--max-tokens", 8]
    outputs = []
    for where in ("cpu", device.type):
        out = workshop.folder / f"captions-{len(outputs)}.jsonl"
        stage(*words, "--precision", "fp32", "--out", out, "--device", where, "--workers", 0)
        outputs.append([json.loads(line)["caption"] for line in out.read_text().splitlines()])
    equal = np.mean([a == b for a, b in zip(*outputs, strict=True)])
    report.at_least("BLIP, fp32: share of equal captions", equal, 0.95)


# ---------------------------------------------------------------- evaluations
def evaluations(report, device):
    """Nearest neighbours and logistic regression; features on the device or on the CPU."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 5
    centres = torch.randn(5, 64, generator=generator)
    x = 0.4 * centres[labels] + torch.randn(600, 64, generator=generator)
    train, val = x[:400], x[400:]
    held = torch.zeros(400, dtype=torch.bool)
    held[::10] = True

    def neighbours(features_at, device):
        votes = knn(train.to(features_at), labels[:400], val.to(device), 5)
        return accuracy(votes, labels[400:])[0]

    def regression(features_at, device):
        rows = train.clone().to(features_at)
        mean, sd = linear.standardise(rows, device)
        y = labels[:400].to(features_at)
        W, _ = linear.fit_linear(rows, y, 5, held.to(features_at), device, decays=(1e-3, 1e-2))
        scores = linear.scores(W, (val.to(device) - mean) / sd)
        return accuracy(scores, labels[400:])[0]

    for name, function in (("kNN", neighbours), ("logistic regression", regression)):
        expected = function(CPU, CPU)
        report.info(f"{name}: top-1 on the CPU", expected)
        for features_at in (device, CPU):
            apart = abs(function(features_at, device) - expected)
            report.at_most(f"{name}, features on {features_at}: top-1 apart", apart, 0.6)


def inception(report, device):
    """The network of FID with random weights."""
    from models.inception import FIDInception

    torch.manual_seed(0)
    network = FIDInception().eval()
    network.fc = torch.nn.Identity()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = network([images])
        found = network.to(device)([images.to(device)])
    report.at_most("Inception's features, fp32", relative(found, expected), 1e-4)
