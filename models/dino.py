"""DINO (Caron et al. 2021, arXiv 2104.14294). Files: facebookresearch/dino 7c446df."""

import torch
import torch.nn.functional as F
from torch import nn

from base.parallel import all_sum, full_precision, world
from images.views import FIRST, LOCAL, SECOND
from models.method import ASYMMETRIC, COMMON, Taught, cifar, embed, mlp, scores_of, unit
from models.swav import swav_loss


@full_precision
def dino_loss(student, teacher, center, teacher_temp):
    """DINO's loss (eq. 2-4): SwAV's swapped prediction with other assignments.

    student (V, b, K): all crops. teacher (G, b, K): the global ones, no gradient. center (1, K).
    The student's temperature is 0.1 (main_dino.py:363-416). Returns (loss, terms).
    """
    assignments = F.softmax((teacher - center) / teacher_temp, dim=-1)
    return swav_loss(student, assignments, temperature=0.1)


class DINO(Taught):
    """The student sees all crops, the teacher only `views`.

    Rows of the last layer have norm 1 (officially by weight-norm with g frozen at 1). The teacher
    is in training mode, as published.
    """

    def __init__(self, backbone, dim, projector, teacher_temp, momentum, freeze):
        super().__init__(backbone)
        *hidden, outputs = projector
        self.projector = mlp(dim, *hidden, last_bias=True, norm=False, activation=nn.GELU)
        for layer in self.projector[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(hidden[-1], outputs, bias=False)
        self.add_teacher(momentum)
        self.register_buffer("center", torch.zeros(1, outputs))
        self.teacher_temp = teacher_temp
        self.freeze = freeze

    def forward(self, views, local=(), epoch=0.0):
        z, student = self.outputs([*views, *local], *self.student())
        with torch.no_grad():
            _, teacher = self.outputs(views, *self.teacher)
        loss, terms = dino_loss(student, teacher, self.center, teacher_temp=self.teacher_temp)
        self.move_center(teacher)
        return loss, terms, z[0].detach()

    def student(self):
        return self.backbone, self.projector, self.prototypes

    def outputs(self, crops, backbone, projector, prototypes):
        z = embed(crops, backbone, projector)
        return z, scores_of(z, unit(prototypes.weight))

    @torch.no_grad()
    def move_center(self, teacher):
        mean = all_sum(teacher.mean((0, 1))[None] / world())
        self.center.lerp_(mean.to(self.center), 1 - 0.9)  # main_dino.py:366

    def encoder(self):
        return self.teacher[0]  # the official evaluations load it (eval_knn.py, eval_linear.py)


def views(scale, local_scale):
    """(first view, second view, local crop) with these shares of the image's area."""
    scale = dict(scale=scale)
    return FIRST | scale, SECOND | scale, FIRST | LOCAL | dict(scale=local_scale)


PUBLISHED = COMMON | dict(
    build=DINO,
    views=views((0.14, 1.0), (0.05, 0.14)),  # README, ResNet-50
    optimizer="sgd",
    learning_rate=0.03,  # README, ResNet-50
    weight_decay=1e-4,  # not on 1-D parameters: utils.py:632-643
    linspace=True,  # utils.py:187-198
    end_lr=1e-6,  # main_dino.py:96, min_lr
    clip_grad=3.0,  # main_dino.py:87; each parameter's norm by itself: utils.py:132-141
    local_crops=6,  # the dissertation, 4.1.5; the README has 8
    vit=dict(  # the defaults of main_dino.py:82-117, README: ViT-S, 100 epochs
        views=views((0.4, 1.0), (0.05, 0.4)),  # main_dino.py:108-117
        optimizer="adamw",
        learning_rate=0.0005,
        weight_decay=0.04,
        weight_decay_end=0.4,
        drop_path=0.1,  # the teacher's is 0
    ),
    head=dict(
        projector="2048-2048-256-65536",  # vision_transformer.py:257-291
        teacher_temp=0.04,  # without warm-up: main_dino.py:66-72
        momentum=0.996,  # main_dino.py:61
        freeze=1.0,  # epochs without updates of the last layer: main_dino.py:93
    ),
)
CIFAR = cifar(
    PUBLISHED,
    ASYMMETRIC,
    learning_rate=0.3,
    weight_decay=1e-6,
    projector="2048-2048-256-4096",
    teacher_temp=0.07,
    momentum=0.9995,
)
