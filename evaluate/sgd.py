"""Stochastic gradient descent on labelled crops: of a layer on a frozen backbone, or of all.

Used by 04 (the published protocol) and 05.
"""

import math

import torch
import torch.nn.functional as F

from base import run, run_folder
from base.training import Meter
from evaluate.evaluation import summary
from evaluate.features import accuracy, read_batches


def linear_layer(width, classes, generator=None):
    """The layer that is trained: weights of standard deviation 0.01, biases 0; on the CPU."""
    layer = torch.nn.Linear(width, classes)
    torch.nn.init.normal_(layer.weight, 0, 0.01, generator)
    torch.nn.init.zeros_(layer.bias)
    return layer


def cosine(epoch, epochs):
    """Half a cosine, from 1 in epoch 0 towards 0 after the last of the epochs."""
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def train(
    model,
    forward,
    images,
    labels,
    measure,
    *,
    out,
    state,
    rates,
    schedule,
    weight_decay,
    epochs,
    batch_size,
    seed,
    crop,
    workers,
    device,
    what="training",
    **kept,
):
    """Train a model by SGD with momentum 0.9. Returns (history, the last value of `measure`).

    model: what is trained and stands in the checkpoint, which is written after each epoch.
    forward(pixels): uint8 (B, S, S, 3) -> the model's scores, float32 (B, classes); its gradients
    are those of the batch over all processes. images: an ImageList. labels: int64 (n,), numpy.
    measure(): (scores (m, classes), the Split that they belong to).
    state: the run's checkpoint or None; it counts if it is of this seed. rates: (module, highest
    learning rate) of each part of the model. schedule(epoch): the share of these rates.
    batch_size: over all processes. seed: of the order. crop: see features.random_crop. kept: what
    else stands in the checkpoint.
    history: [top-1, top-5] in percent after each epoch.
    """
    groups = [{"params": part.parameters(), "peak": rate} for part, rate in rates]
    solver = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=weight_decay)
    history, measured = [], None
    if state and state["seed"] == seed:
        model.load_state_dict(state["model"])
        solver.load_state_dict(state["solver"])
        history = state["history"]

    steps = len(images) // batch_size
    first, last = len(history) * steps, epochs * steps
    order = run.batches(len(images), batch_size, seed, first, last)
    batches = read_batches(images, order, crop, workers, device)
    meter = Meter(device=device)
    with run.progress(last, what, first) as bar:
        for step, (pixels, indices) in enumerate(batches, first):
            epoch = step // steps
            if step % steps == 0:
                model.train()
            for group in solver.param_groups:
                group["lr"] = group["peak"] * schedule(epoch)
            y = torch.from_numpy(labels[indices]).to(device, non_blocking=True)
            loss = F.cross_entropy(forward(pixels), y)
            solver.zero_grad(set_to_none=True)
            loss.backward()
            solver.step()
            meter.add(step, {"loss": loss})
            bar.update()
            if (step + 1) % steps:
                continue

            # ---------------------------------------------------- the end of an epoch
            means = meter.read()
            measured = measure()
            top1, top5 = accuracy(measured[0], measured[1].labels)
            bar.set_postfix(loss=f"{means['loss']:.3f}", top1=f"{top1:.2f}")
            history.append([top1, top5])
            run_folder.log(
                out, event="epoch", seed=seed, epoch=epoch, **means, top1=top1, top5=top5
            )
            run_folder.save_checkpoint(
                out,
                seed=seed,
                model=model.state_dict(),
                solver=solver.state_dict(),
                history=history,
                **kept,
            )
    if measured is None:  # interrupted between the last checkpoint and here
        measured = measure()
    return history, measured


def results_of(histories):
    """The results of several trainings, of which `train` returned the histories."""
    last = [history[-1] for history in histories]
    best = [max(top1 for top1, _ in history) for history in histories]
    return {
        "top1": summary([top1 for top1, _ in last]),
        "top5": summary([top5 for _, top5 in last]),
        "best_top1": summary(best),
    }
