"""SwAV (Caron et al. 2020, arXiv 2006.09882). Files: facebookresearch/swav 06b1b7c."""

import torch
import torch.nn.functional as F
from torch import nn

from base.parallel import full_precision, gather, rank, world
from images.views import FIRST, LOCAL
from models.method import COMMON, SYMMETRIC, Method, cifar, embed, mlp, scores_of, unit


@full_precision
def swav_loss(scores, q, temperature=0.1):
    """Swapped prediction (eq. 1, 2 and 6): (loss, terms).

    scores (V, b, K): of all crops, the G global ones first. q (G, b, K): assignments of these.
    Cross-entropy of softmax(scores / temperature) to q of every *other* global crop, the mean over
    b and the G (V - 1) pairs (main_swav.py:259-350).
    """
    pairs = len(q) * (len(scores) - 1)
    loss = 0.0
    for crop, predicted in enumerate(scores):
        target = sum(q[g] for g in range(len(q)) if g != crop)
        loss = loss + F.cross_entropy(predicted / temperature, target)
    entropy = torch.special.entr(q.detach()).sum(-1).mean()  # 0 or ln K: two kinds of collapse
    return loss / pairs, {"target_entropy": entropy}


@torch.no_grad()
@full_precision
def sinkhorn(scores, epsilon=0.05, iterations=3):
    """scores (n, K) -> assignments (n, K), rows of sum 1, that use the K prototypes equally.

    Eq. 3-5, main_swav.py:59-64. The largest score of all is subtracted so that exp does not
    overflow; this changes nothing, because the first division removes a common factor. (Subtracting
    each row's largest score would change the result: three iterations do not converge.)
    """
    n, k = scores.shape
    q = torch.exp((scores - scores.max()) / epsilon)
    for _ in range(iterations):
        q /= k * q.sum(0, keepdim=True)
        q /= n * q.sum(1, keepdim=True)
    return q * n


class SwAV(Method):
    """Crops of one size share the backbone's pass, all share the head's (src/resnet50.py:308-323).

    `views` (`global_views` many) get assignments. The last `queue` embeddings of each, of the
    global batch and equal on all processes, join the Sinkhorn once there are so many, from epoch
    `queue_start`.
    """

    def __init__(
        self, backbone, dim, projector, *, temperature, queue, queue_start, freeze, global_views
    ):
        super().__init__(backbone)
        *hidden, prototypes = projector
        self.projector = mlp(dim, *hidden, last_bias=True)
        self.prototypes = nn.Linear(hidden[-1], prototypes, bias=False)
        self.register_buffer("queue", torch.zeros(global_views, queue, hidden[-1]))
        self.temperature = temperature
        self.queue_start = queue_start
        self.freeze = freeze

    def forward(self, views, local=(), epoch=0.0):
        with torch.no_grad():
            self.prototypes.weight.copy_(unit(self.prototypes.weight))
        crops = [*views, *local]
        z = embed(crops, self.backbone, self.projector)
        scores = scores_of(z, self.prototypes.weight)
        assignments = self.assign(z[: len(views)].detach(), epoch >= self.queue_start)
        loss, terms = swav_loss(scores, assignments, temperature=self.temperature)
        return loss, terms, z[0].detach()

    @torch.no_grad()
    def assign(self, z, use_queue):
        """z (G, b, d) of the global crops -> this process's assignments (G, b, K)."""
        batch = gather(z.transpose(0, 1)).transpose(0, 1)
        assigned = batch
        if use_queue and self.queue.numel():
            with_queue = torch.cat([batch, self.queue.to(batch)], dim=1)
            queue_is_full = self.queue[0, -1].any()  # waits for the device
            if queue_is_full:
                assigned = with_queue
            self.queue.copy_(with_queue[:, : self.queue.shape[1]])
        of_batch = []
        for embeddings in assigned:
            assignments = sinkhorn(scores_of(embeddings, self.prototypes.weight))
            of_batch.append(assignments[: batch.shape[1]])
        return torch.stack(of_batch).chunk(world(), dim=1)[rank()]


VIEW = FIRST | dict(  # multicropdataset.py
    scale=(0.14, 1.0),
    interpolation="bilinear",
    jitter=(0.8, 0.8, 0.8, 0.2),
    blur=0.5,
    std=(0.228, 0.224, 0.225),
)
PUBLISHED = COMMON | dict(
    build=SwAV,
    views=(VIEW, VIEW, VIEW | LOCAL),
    optimizer="larc",
    exclude_1d=False,  # main_swav.py:171-177: everything is adapted and decayed
    learning_rate=0.3,  # swav_100ep_pretrain.sh: 4.8 at batch 4096
    start=0.3 / 4.8,
    end=0.0048 / 4.8,
    linspace=True,
    head=dict(
        projector="2048-128-3000",  # main_swav.py:65-68; src/resnet50.py:197-217
        temperature=0.1,  # main_swav.py:59-64
        queue=3840,  # its batch-256 recipe; also ours at 800, which is below 3000 prototypes
        queue_start=15.0,
        global_views=2,
        freeze=1.0,  # 313 iterations at batch 4096, 5005 at 256: an epoch
    ),
)
CIFAR = cifar(
    PUBLISHED, SYMMETRIC, learning_rate=0.6, weight_decay=1e-6, queue_start=50.0, freeze=2.0
)
