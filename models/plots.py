"""Curves of a run's log."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from models.old_run import atomic  # noqa: E402


def curves(path, events, names):
    """One panel a quantity over the epochs; `events`: log lines with "epoch" and the quantities."""
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [(event["epoch"], event[name]) for event in events if name in event]
        axis.plot(
            *zip(*points, strict=True), marker="." if len(points) < 30 else ""
        ) if points else None
        axis.set(xlabel="epoch", title=name)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def save_figure(figure, path):
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
