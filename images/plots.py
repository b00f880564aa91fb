"""Figures: curves of a log, bars of classes, one way to save. Every figure goes through here.

Used by 00, 03, 07, report/ and evaluate/evaluation.py.
"""

import matplotlib

matplotlib.use("Agg")  # draw without a screen
matplotlib.rcParams["text.parse_math"] = False  # a class may be called $x$

from matplotlib import pyplot as plt  # noqa: E402

from base import run  # noqa: E402
from images.pictures import drawable  # noqa: E402

HIGHEST = 500  # inches; matplotlib draws 2**16 pixels at most


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
    figure, axis = plt.subplots(figsize=(7, min(max(2.5, 0.25 * len(names)), HIGHEST)))
    drawn = [drawable(name) for name in names]
    axis.barh(range(len(names)), [values[name] for name in names], tick_label=drawn)
    axis.set(xlim=(0, 100), xlabel="percent", title=title)
    save_figure(figure, path)


def save_figure(figure, path):
    """Write the figure as a PNG and forget it."""
    figure.tight_layout()
    with run.atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
