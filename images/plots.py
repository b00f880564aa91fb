"""Every figure goes through here: curves of a log, bars of classes, one way to save."""

import matplotlib

matplotlib.use("Agg")  # draw without a screen
matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$

from matplotlib import pyplot as plt  # noqa: E402

from base import run  # noqa: E402

MANY_CLASSES = 60  # beyond this, names beside the bars would cover each other


def curves(path, events, names):
    """A PNG with one panel for each quantity, over the epochs.

    events: lines of a log, dicts with "epoch" and some of the quantities. names: the quantities.
    """
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        epochs = [event["epoch"] for event in events if name in event]
        values = [event[name] for event in events if name in event]
        axis.plot(epochs, values, marker="." if len(values) < 30 else "")
        axis.set(xlabel="epoch", title=name)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def bars(path, values, title):
    """A PNG with one bar for each class, the best on top. values: {class: percent}."""
    names = sorted(values, key=values.get)
    few = len(names) <= MANY_CLASSES
    height = min(max(2.5, 0.25 * len(names)), 12)
    figure, axis = plt.subplots(figsize=(7, height))
    axis.barh(range(len(names)), [values[name] for name in names], height=0.8 if few else 1)
    if few:
        # What is not UTF-8 in a name cannot be drawn: it becomes "?".
        drawn = [name.encode("utf-8", "replace").decode() for name in names]
        axis.set_yticks(range(len(names)), drawn)
    else:
        axis.set_yticks([])
    axis.set(xlim=(0, 100), xlabel="percent", title=title)
    save_figure(figure, path)


def save_figure(figure, path):
    """Write the figure as a PNG and forget it."""
    figure.tight_layout()
    with run.atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
