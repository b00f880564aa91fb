"""What TINY=1 needs: little images in the layouts of ImageNet, Places365, VOC2007 and COCO, and
networks with random weights in the published formats.

    python tests/tiny.py data/tiny
"""

import json
import shutil
import sys
import tarfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))  # started as a file: make `models` importable

import msgpack
import numpy as np
from tiny_pipelines import blip, sdxl

from base.run import write_json
from images.labelled import VOC
from images.pictures import write_image
from models.published_maskgit import read_flax

CLASSES = ("n01440764", "n01558993", "n01692333", "n01729322")  # the first is not in ImageNet-100
SCENES = ("abbey", "bar", "cave")
TRAIN = 8  # images a class
VAL = 3


def picture(path, kind, number, size=(36, 40)):
    """Write stripes whose direction and colour show the class `kind`; size: (height, width)."""
    rng = np.random.default_rng([kind, number])
    y, x = np.mgrid[: size[0], : size[1]] / size[0]
    slope = x * np.cos(kind) + y * np.sin(kind)
    stripes = np.sin(12 * slope + rng.uniform(0, 6))[..., None]
    colour = 128 + 60 * np.cos(kind + np.arange(3) * 2)
    pixels = colour + 50 * stripes + rng.normal(0, 8, (*size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels.clip(0, 255).astype(np.uint8))


def class_folders(root, classes):
    """ROOT/train/CLASS and ROOT/val/CLASS."""
    for kind, name in enumerate(classes):
        for i in range(TRAIN):
            picture(root / "train" / name / f"{name}_train_{i}.jpg", kind, i)
        for i in range(VAL):
            picture(root / "val" / name / f"{name}_val_{i}.jpg", kind, i + TRAIN)


def voc(root):
    """VOC2007, its lists with Windows' line ends. Image i holds every fifth class, from i on."""
    base = root / "VOCdevkit/VOC2007"
    (base / "Annotations").mkdir(parents=True)
    (base / "ImageSets/Main").mkdir(parents=True)
    for split, first in (("trainval", 0), ("test", 100)):
        names = [f"{split}{i:02d}" for i in range(20)]
        for i, name in enumerate(names):
            picture(base / f"JPEGImages/{name}.jpg", i % 5, first + i)
            objects = ""
            for kind in VOC[i % 5 :: 5]:
                objects += f"<object><name>{kind}</name><difficult>0</difficult></object>"
            (base / f"Annotations/{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (base / f"ImageSets/Main/{split}.txt").write_text("\r\n".join(names) + "\r\n")
    return base


def coco(root):
    """COCO 2014 with three categories: image i holds those of the bits of i. Returns val's file."""
    kinds = enumerate(("cup", "fork", "tv"))
    categories = [{"id": 10 * k + 10, "name": name} for k, name in kinds]
    for split, count, first in (("train", 32, 0), ("val", 16, 100)):
        images, annotations = [], []
        for i in range(count):
            picture(root / f"{split}2014/{i}.jpg", i % 8, first + i)
            images.append({"id": 1000 + i, "file_name": f"{i}.jpg"})
            for k in range(3):
                if i >> k & 1:
                    about = {"image_id": 1000 + i, "category_id": 10 * k + 10, "iscrowd": 0}
                    annotations.append(about)
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / f"annotations/instances_{split}2014.json", content)
    return root / "annotations/instances_val2014.json"


def subset_lists(folder):
    """SimCLR's lists of the 1 % and 10 % of the labels."""
    folder.mkdir(parents=True)
    for percent, each in ((1, 1), (10, 2)):
        names = [f"{name}_train_{i}.jpg" for name in CLASSES for i in range(each)]
        (folder / f"{percent}percent.txt").write_text("\n".join(names) + "\n")


def flax_array(array):
    """An array as flax.serialization writes it: an extension of type 1."""
    content = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))


def maskgit(folder):
    """The two published files. The tests' transformer knows ten classes, this one all 1,000."""
    goldens = TESTS / "goldens/maskgit"
    shutil.copy(goldens / "tokenizer_imagenet256_checkpoint", folder)
    params = read_flax(goldens / "maskgit_imagenet256_checkpoint")
    words = params["Embed_0"]["word_embeddings"]
    bias = params["MlmLayer_0"]["mlm_bias"]
    rng = np.random.default_rng(0)
    more = rng.normal(0, 0.02, (990, words["embedding"].shape[1])).astype(np.float32)
    words["embedding"] = np.concatenate([words["embedding"], more])
    bias["bias"] = np.concatenate([bias["bias"], np.zeros(990, np.float32)])
    content = msgpack.packb({"params": params}, default=flax_array)
    (folder / "maskgit_imagenet256_checkpoint").write_bytes(content)


def icgan(folder):
    """The published tarball, and the encoder: a ResNet of four blocks in SwAV's format."""
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet

    with tarfile.open(folder / "icgan_biggan_imagenet_res256.tar.gz", "w:gz") as tar:
        file = "icgan_biggan_imagenet_res256/G_ema_best0.pth"
        tar.add(TESTS / "goldens/icgan/release/G_ema_best0.pth", file)
    torch.manual_seed(0)
    state = {"module.prototypes.weight": torch.zeros(3)}
    for name, tensor in ResNet(Bottleneck, [1, 1, 1, 1]).state_dict().items():
        if not name.startswith("fc."):
            state[f"module.{name}"] = tensor
    torch.save(state, folder / "swav_800ep_pretrain.pth.tar")


def main(out):
    if (out / "ready").exists():
        return
    for name in ("weights", "voc", "coco", "imagenet", "places365"):
        shutil.rmtree(out / name, ignore_errors=True)
    class_folders(out / "imagenet", CLASSES)
    class_folders(out / "places365", SCENES)
    voc(out / "voc")
    coco(out / "coco")
    subset_lists(out / "weights/imagenet_subsets")
    maskgit(out / "weights")
    icgan(out / "weights")
    blip(out / "blip")
    sdxl(out / "sdxl")
    (out / "ready").write_text(json.dumps({"classes": CLASSES}) + "\n")
    print(f"{out}: tiny images and random weights")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
