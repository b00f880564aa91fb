"""What TINY=1 needs: little images in the layouts of ImageNet, Places365, VOC2007 and COCO, and networks with random
weights in the published formats. Nothing is downloaded; the numbers that come out mean nothing.

    python recipes/tiny.py data/tiny
"""

import json
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # started as a file: make `models` importable

import numpy as np

from models.images import write_image
from models.old_run import ROOT, write_json

CLASSES = (
    "n01440764",
    "n01558993",
    "n01692333",
    "n01729322",
)  # all but the first are in ImageNet-100
TRAIN, VAL = 8, 3  # images a class
VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
).split()
TESTS = ROOT / "tests"


def picture(path, kind, number, size=(36, 40)):
    """Stripes whose direction and colour show the class."""
    rng = np.random.default_rng([kind, number])
    y, x = np.mgrid[: size[0], : size[1]] / size[0]
    wave = np.sin(12 * (x * np.cos(kind) + y * np.sin(kind)) + rng.uniform(0, 6))[..., None]
    pixels = 128 + 60 * np.cos(kind + np.arange(3) * 2) + 50 * wave + rng.normal(0, 8, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels.clip(0, 255).astype(np.uint8))


def class_folders(root, classes):
    for split, each in (("train", TRAIN), ("val", VAL)):
        for kind, name in enumerate(classes):
            for i in range(each):
                picture(
                    root / split / name / f"{name}_{split}_{i}.jpg",
                    kind,
                    i + TRAIN * (split == "val"),
                )


def voc(root):
    """Image i holds every fifth class, from class i on: each class is in a fifth of the images."""
    base = root / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for split in ("trainval", "test"):
        names = [f"{split}{i:02d}" for i in range(20)]
        for i, name in enumerate(names):
            picture(base / f"JPEGImages/{name}.jpg", i % 5, i)
            objects = "".join(
                f"<object><name>{kind}</name><difficult>0</difficult></object>"
                for kind in VOC[i % 5 :: 5]
            )
            (base / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (base / f"ImageSets/Main/{split}.txt").write_text("\n".join(names) + "\n")


def coco(root):
    for split, count in (("train", 12), ("val", 6)):
        for i in range(count):
            picture(root / f"{split}2014/{i}.jpg", i % 3, i)
        write_json(
            root / f"annotations/instances_{split}2014.json",
            {
                "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(count)],
                "annotations": [
                    {"image_id": i, "category_id": i % 3 + 1, "iscrowd": 0} for i in range(count)
                ],
                "categories": [
                    {"id": k + 1, "name": name} for k, name in enumerate(("cup", "fork", "tv"))
                ],
            },
        )


def flax(tree):
    """Nested dict of arrays -> the bytes that flax.serialization writes: an array is extension type 1."""
    import msgpack

    return msgpack.packb(
        tree,
        default=lambda array: msgpack.ExtType(
            1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
        ),
    )


def maskgit(folder):
    """The two published files; the transformer of the tests knows ten classes, this one all 1,000."""
    from models.weights import read_flax

    shutil.copy(TESTS / "goldens/maskgit/tokenizer_imagenet256_checkpoint", folder)
    params = read_flax(TESTS / "goldens/maskgit/maskgit_imagenet256_checkpoint")
    rng = np.random.default_rng(0)
    words, bias = params["Embed_0"]["word_embeddings"], params["MlmLayer_0"]["mlm_bias"]
    more = rng.normal(0, 0.02, (990, words["embedding"].shape[1])).astype(np.float32)
    words["embedding"] = np.concatenate([words["embedding"], more])
    bias["bias"] = np.concatenate([bias["bias"], np.zeros(990, np.float32)])
    (folder / "maskgit_imagenet256_checkpoint").write_bytes(flax({"params": params}))


def icgan(folder):
    """The published tarball, and the encoder: a ResNet of four blocks in SwAV's format."""
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet

    with tarfile.open(folder / "icgan_biggan_imagenet_res256.tar.gz", "w:gz") as tar:
        tar.add(
            TESTS / "goldens/icgan/release/G_ema_best0.pth",
            "icgan_biggan_imagenet_res256/G_ema_best0.pth",
        )
    torch.manual_seed(0)
    state = {
        f"module.{k}": v
        for k, v in ResNet(Bottleneck, [1, 1, 1, 1]).state_dict().items()
        if k[:3] != "fc."
    }
    torch.save(
        state | {"module.prototypes.weight": torch.zeros(3)}, folder / "swav_800ep_pretrain.pth.tar"
    )


def main(out):
    if (out / "ready").exists():
        return
    shutil.rmtree(out / "weights", ignore_errors=True)
    for name in ("voc", "coco", "imagenet", "places365"):
        shutil.rmtree(out / name, ignore_errors=True)
    lists = out / "weights/imagenet_subsets"
    lists.mkdir(parents=True)
    class_folders(out / "imagenet", CLASSES)
    class_folders(out / "places365", ("abbey", "bar", "cave"))
    voc(out / "voc")
    coco(out / "coco")
    for percent, each in ((1, 1), (10, 2)):
        names = [f"{name}_train_{i}.jpg" for name in CLASSES for i in range(each)]
        (lists / f"{percent}percent.txt").write_text("\n".join(names) + "\n")
    maskgit(out / "weights")
    icgan(out / "weights")
    sys.path.insert(0, str(TESTS))
    from tiny_pipelines import blip, sdxl

    blip(out / "blip")
    sdxl(out / "sdxl")
    (out / "ready").write_text(json.dumps({"classes": CLASSES}) + "\n")
    print(f"{out}: tiny images and random weights")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
