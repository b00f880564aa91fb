"""Draws RUNS/report.png of recipes/quickstart.sh: tiles, reconstructions, in-painted tiles, curves, accuracies.

python recipes/quickstart_picture.py DATA RUNS
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # started as a file: make `models` importable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from models.images import find_images, read_image
from models.plots import save_figure
from models.old_run import read_json, read_log

ARMS = ("baseline", "generated", "control")
data, runs = map(Path, sys.argv[1:])
figure, axes = plt.subplots(2, 3, figsize=(15, 8.5))

# ---- pictures
paths = find_images(data / "train")
paths = paths[:: max(1, len(paths) // 24)][:24]
folders = {
    "tiles": data / "train",
    "half of each masked and predicted (MaskGIT)": runs / "inpaint" / "view0",
}
for axis, (title, folder) in zip(axes[0], folders.items(), strict=False):
    tiles = np.stack([read_image(folder / path) for path in paths])
    side = tiles.shape[1]
    grid = (
        tiles.reshape(4, 6, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(4 * side, 6 * side, 3)
    )
    axis.imshow(grid, interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])
axes[0, 2].imshow(read_image(runs / "vqgan" / "reconstructions.png"))
axes[0, 2].set(title="VQGAN: tiles, reconstructions", xticks=[], yticks=[])

# ---- curves and accuracies
for arm in ARMS:
    events = read_log(runs / arm, "step")
    for axis, name in zip(axes[1], ("loss", "effective_rank"), strict=False):
        axis.plot([e["epoch"] for e in events], [e[name] for e in events], label=arm)
        axis.set(title=name.replace("_", " "), xlabel="epoch")
        axis.legend()
results = {arm: read_json(runs / f"linear-{arm}" / "result.json") for arm in ARMS}
values = {arm: result["results"]["top1"]["mean"] for arm, result in results.items()}
lines = {
    name: value["top1"]["mean"] if isinstance(value["top1"], dict) else value["top1"]
    for name, value in results["control"]["baselines"].items()
}
axis = axes[1, 2]
bars = axis.bar(values.keys(), values.values(), color=["tab:blue", "tab:orange", "tab:green"])
axis.bar_label(bars, fmt="%.1f")
for (name, value), style in zip(lines.items(), (":", "--", "-."), strict=False):
    axis.axhline(value, color="gray", linestyle=style, label=f"{name} {value:.1f}")
axis.set(title="linear top-1 (%), one seed", ylim=(0, 100))
axis.legend(loc="upper right", fontsize=8)
save_figure(figure, runs / "report.png")
print(runs / "report.png")
