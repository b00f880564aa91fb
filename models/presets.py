"""Settings of 03_pretrain.py for images that the methods' papers do not have: its --preset.

cifar: those of solo-learn, whose accuracies on CIFAR-10 are public (1,000 epochs, ResNet-18, linear
top-1: VICReg 92.07, Barlow Twins 92.10, BYOL 92.58, SimCLR 90.74, DINO 89.52, SwAV 89.17). From
vturrisi/solo-learn 9187ea3, scripts/pretrain/cifar/*.yaml and README.md. What is not solo-learn's:
* SimCLR and SwAV do not blur: so did the scripts that the accuracies came from (simclr.sh, swav.sh
  of the same folder, 48e669e). The later yaml files blur half of the views.
* SimCLR's and DINO's projectors keep the layers of models/heads.py: SimCLR's has BatchNorms.
* DINO's student has no local crops in solo-learn, and so it has none here.
"""

from images.views import FIRST
from models import vit
from models.heads import METHODS

# ---------------------------------------------------------------- the views
_CIFAR = FIRST | dict(
    blur=0.0,
    mean=(0.4914, 0.4822, 0.4465),  # solo/data/pretrain_dataloader.py:207
    std=(0.2470, 0.2435, 0.2616),
)
_VICREG = _CIFAR | dict(scale=(0.2, 1.0), solarize=0.1)  # vicreg.yaml
_FIRST, _SECOND = _CIFAR, _CIFAR | dict(solarize=0.2)  # augmentations/asymmetric.yaml
_STRONG = _CIFAR | dict(jitter=(0.8, 0.8, 0.8, 0.2))  # augmentations/symmetric.yaml

SYMMETRIC_VICREG = (_VICREG, _VICREG, _VICREG)
ASYMMETRIC = (_FIRST, _SECOND, _FIRST)
SYMMETRIC = (_STRONG, _STRONG, _STRONG)

# ---------------------------------------------------------------- the recipes
_COMMON = dict(
    optimizer="larc",  # solo/utils/lars.py: LARC's ratio, clipped
    eta=0.02,
    clip_ratio=True,
    exclude_1d=True,
    scaling="linear",
    lr_1d=1.0,
    warmup_epochs=10,
    end=0.0,
    end_lr=None,
    linspace=False,
    clip_grad=0.0,
    local_crops=0,
    zero_init_residual=False,
)


def _recipe(method, views, lr, weight_decay, **head):
    """METHODS[method] under solo-learn's settings."""
    published = METHODS[method]
    changes = dict(views=views, lr=lr, start=3e-5 / lr, weight_decay=weight_decay)
    return published | _COMMON | changes | {"head": published["head"] | head}


CIFAR = {
    "vicreg": _recipe(
        "vicreg",
        SYMMETRIC_VICREG,
        lr=0.3,
        weight_decay=1e-4,
        projector=(2048, 2048, 2048),
        variance=50.0,  # solo/losses/vicreg.py sums the term of both views, ours is their mean
    ),
    "barlow": _recipe(
        "barlow", ASYMMETRIC, lr=0.3, weight_decay=1e-4, projector=(2048, 2048, 2048), scale=0.1
    ),
    "byol": _recipe("byol", ASYMMETRIC, lr=1.0, weight_decay=1e-5),
    "simclr": _recipe(
        "simclr", SYMMETRIC, lr=0.4, weight_decay=1e-4, projector=(2048, 256), temperature=0.2
    ),
    "dino": _recipe(
        "dino",
        ASYMMETRIC,
        lr=0.3,
        weight_decay=1e-6,
        projector=(2048, 2048, 256, 4096),
        teacher_temp=(0.07, 0.07, 0),
        momentum=0.9995,
    ),
    "swav": _recipe("swav", SYMMETRIC, lr=0.6, weight_decay=1e-6, queue_start=50.0, freeze=2.0),
}
PRESETS = {None: METHODS, "cifar": CIFAR}


def recipe_of(method, backbone, preset=None):
    """The entry of heads.METHODS for a method, with what a preset and then the backbone change.

    All are names. preset: a key of PRESETS; None changes nothing.
    """
    recipe = PRESETS[preset][method]
    return recipe | recipe.get("vit", {}) if vit.is_vit(backbone) else recipe
