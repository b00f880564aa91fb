"""MaskGIT (Chang et al. 2022, arXiv:2202.04200): a bidirectional transformer that predicts masked image
tokens, its iterative decoding, and the masks of in- and out-painting.

Tokens are (B, L) int64, the L = side x side latent tokens row by row, MASK (-1) where unknown. One class,
two uses: the published class-conditional ImageNet-256 transformer (the label is a token put in front) and
the label-free ones that `00_train_generator.py maskgit` trains.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MASK = -1
PUBLISHED = {
    "codes": 1024,
    "classes": 1000,
    "tokens": 256,
    "layers": 24,
    "dim": 768,
    "heads": 16,
    "mlp": 3072,
}


class Layer(nn.Module):
    """A post-norm BERT layer; LayerNorm eps 1e-12 and the tanh GELU, as in the official code."""

    def __init__(self, dim, heads, mlp, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, mlp), nn.Linear(mlp, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-12), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x):
        b, n, d = x.shape
        p = self.dropout if self.training else 0.0
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = (
            F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).reshape(b, n, d)
        )
        x = self.norm1(x + F.dropout(self.out(attended), p))
        h = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return self.norm2(x + F.dropout(h, p))


class MaskGIT(nn.Module):
    """codes: of the tokenizer; classes: 0 for a label-free model; tokens: of an image; vocabulary =
    codes + classes + 1, the last row being the mask token; the output is tied to the word embedding."""

    def __init__(self, codes, classes, tokens, layers, dim, heads, mlp, dropout=0.1):
        super().__init__()
        self.config = {
            "codes": codes,
            "classes": classes,
            "tokens": tokens,
            "layers": layers,
            "dim": dim,
            "heads": heads,
            "mlp": mlp,
        }
        self.codes, self.classes, self.dropout = codes, classes, dropout
        self.word = nn.Embedding(codes + classes + 1, dim)
        self.position = nn.Embedding(tokens + (classes > 0), dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Layer(dim, heads, mlp, dropout) for _ in range(layers))
        self.head, self.head_norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(codes + classes + 1))
        for module in self.modules():  # the paper's initialisation: truncated normal, 0.02
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)

    def forward(self, tokens, labels=None, where=None):
        """tokens (B, L) with MASK; labels (B,) in [0, classes), None for a label-free model; where: bool
        (B, L) of the tokens to predict, None for all -> logits over the codes, (number of those, codes)."""
        ids = torch.where(tokens == MASK, self.word.num_embeddings - 1, tokens)
        if self.classes:
            ids = torch.cat([labels[:, None] + self.codes, ids], 1)
        x = F.dropout(self.norm(self.word(ids) + self.position.weight), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        x = x[:, 1:] if self.classes else x
        x = x.flatten(0, 1) if where is None else x[where]  # no logits for tokens that are known
        x = self.head_norm(F.gelu(self.head(x), approximate="tanh"))
        return F.linear(x, self.word.weight[: self.codes], self.bias[: self.codes])


# ---------------------------------------------------------------- decoding
def mask_ratio(ratio):
    """The cosine schedule: share of tokens still masked after the share `ratio` of the steps. In float32
    on the CPU: in float64 cos(pi/3) is 0.5, here 0.49999997, one token less at 2/3 of the steps."""
    r = np.cos(np.float32(math.pi / 2) * np.float32(ratio))
    return np.clip(r, np.float32(1e-6), np.float32(1.0))


def decode(predict, tokens, draw, noise, steps=12, start=0, temperature=4.5):
    """Iterative parallel decoding (section 3.2 of the paper, the official code's conventions).

    predict(tokens, unknown) -> logits (number unknown, codes); draw(step, logits, unknown) -> ids (number
    unknown,); noise(step) -> Gumbel noise (B, L) of the confidence, scaled by `temperature` x (1 - ratio).
    tokens (B, L) with MASK -> (B, L) without. Known tokens never change."""
    masked_at_first = (tokens == MASK).sum(1)
    for step in range(start, steps):
        unknown = tokens == MASK
        logits = predict(tokens, unknown).float()
        ids = draw(step, logits, unknown)
        filled = tokens.masked_scatter(unknown, ids)
        if step == steps - 1:
            break
        ratio = (step + 1) / steps
        log_probability = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
        confidence = torch.full(tokens.shape, torch.inf, device=tokens.device)
        confidence.masked_scatter_(unknown, log_probability)
        confidence += temperature * (1 - ratio) * noise(step)
        keep_masked = (masked_at_first * float(mask_ratio(ratio))).floor().long()
        keep_masked = torch.minimum(keep_masked, unknown.sum(1) - 1).clamp(min=1)
        cutoff = confidence.sort(1).values.gather(1, keep_masked[:, None])
        tokens = filled.masked_fill(confidence < cutoff, MASK)
    return filled


def uniforms(rngs, steps, length, device):
    """One image's noise is `steps` x 2 x `length` uniform numbers of its own generator: a draw and a
    confidence for each token and step -> (steps, 2, B, L) float32 on the device."""
    noise = np.stack([rng.random((steps, 2, length), dtype=np.float32) for rng in rngs], 2)
    return torch.from_numpy(noise).to(device, non_blocking=True)


def sample(model, tokens, labels, rngs, steps=12, temperature=4.5):
    """Fill the MASK of tokens (B, L); `rngs`: one numpy Generator an image, so that an image's tokens do
    not depend on its batch. Draws by inverting the cumulative softmax: one number a token, not a Gumbel
    number for each of the codes."""
    u = uniforms(rngs, steps, tokens.shape[1], tokens.device)
    tiny = torch.finfo(torch.float32).tiny

    def draw(step, logits, unknown):
        return inverse_cdf(logits, u[step, 0][unknown])

    def noise(step):
        return -(-u[step, 1].clamp(min=tiny).log()).clamp(min=tiny).log()

    return decode(
        lambda t, unknown: model(t, labels, unknown), tokens, draw, noise, steps, 0, temperature
    )


def inverse_cdf(logits, u):
    """logits (N, codes) float32, u (N,) uniform in [0, 1) -> (N,) ids distributed as softmax(logits)."""
    cumulative = logits.softmax(1).cumsum(1)
    ids = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return ids.clamp(max=logits.shape[1] - 1)


# ---------------------------------------------------------------- masks
def mask_of(kind, side, rng=None):
    """bool (side * side,), True where tokens are predicted. center: all but the outer ring; random:P: each
    with probability P; none: nothing (the tokenizer's reconstruction alone)."""
    mask = np.zeros((side, side), bool)
    if kind == "center":
        mask[1:-1, 1:-1] = True
    elif kind.startswith("random:"):
        mask = rng.random((side, side)) < float(kind[7:])
    return mask.ravel()


def positions(size):
    """The nine places of the dissertation's Figure 27: (name, top, left, side) in pixels of the image
    shrunk to 196 of 256 px, at offsets 0, 30 and 60; all three scale with `size`."""
    side, offsets = round(size * 196 / 256), [round(size * o / 256) for o in (0, 30, 60)]
    rows, columns = ("upper", "center", "lower"), ("left", "center", "right")
    names = [f"{r}-{c}" if r != c else r for r in rows for c in columns]
    return [(name, offsets[i // 3], offsets[i % 3], side) for i, name in enumerate(names)]


def uncovered(size, patch, top, left, side):
    """bool (tokens,): True where a token's pixels are not wholly covered by the overlaid image."""
    edge = np.arange(size // patch) * patch
    rows = (edge >= top) & (edge + patch <= top + side)
    columns = (edge >= left) & (edge + patch <= left + side)
    return ~(rows[:, None] & columns[None, :]).ravel()


def from_flax(params, codes):
    """The official checkpoint's parameters -> (config, state dict of MaskGIT). What has no place here keeps
    its name in the file, so that the strict load lists it."""
    flat = dict(_flatten(params))
    words, dim = flat["Embed_0/word_embeddings/embedding"].shape
    classes = words - codes - 1
    config = {
        "codes": codes,
        "classes": classes,
        "dim": dim,
        "tokens": len(flat["Embed_0/position_embeddings/embedding"]) - (classes > 0),
        "layers": sum(name.startswith("TransformerLayer_") for name in params),
        "heads": flat["TransformerLayer_0/Attention_0/self_attention/query/kernel"].shape[1],
        "mlp": flat["TransformerLayer_0/Mlp_0/intermediate_output/kernel"].shape[1],
    }
    state = {}

    def linear(
        name, *sources, rows=dim
    ):  # kernels are (in, out), those of attention (hidden, heads, head width)
        kernels = [flat.pop(f"{source}/kernel").reshape(rows, -1).T for source in sources]
        state[f"{name}.weight"] = torch.from_numpy(np.concatenate(kernels))
        state[f"{name}.bias"] = torch.from_numpy(
            np.concatenate([flat.pop(f"{s}/bias").ravel() for s in sources])
        )

    def norm(name, source):
        state[f"{name}.weight"] = torch.from_numpy(flat.pop(f"{source}/scale"))
        state[f"{name}.bias"] = torch.from_numpy(flat.pop(f"{source}/bias"))

    for i in range(config["layers"]):
        ours, theirs = f"layers.{i}", f"TransformerLayer_{i}"
        attention = f"{theirs}/Attention_0/self_attention"
        linear(f"{ours}.qkv", *(f"{attention}/{part}" for part in ("query", "key", "value")))
        linear(f"{ours}.out", f"{attention}/out")
        linear(f"{ours}.fc1", f"{theirs}/Mlp_0/intermediate_output")
        linear(f"{ours}.fc2", f"{theirs}/Mlp_0/layer_output", rows=config["mlp"])
        norm(f"{ours}.norm1", f"{theirs}/Attention_0/attention_output_ln")
        norm(f"{ours}.norm2", f"{theirs}/Mlp_0/layer_output_ln")
    linear("head", "MlmLayer_0/mlm_dense")
    norm("head_norm", "MlmLayer_0/mlm_ln")
    norm("norm", "Embed_0/embeddings_ln")
    for ours, theirs in (
        ("word.weight", "Embed_0/word_embeddings/embedding"),
        ("bias", "MlmLayer_0/mlm_bias/bias"),
        ("position.weight", "Embed_0/position_embeddings/embedding"),
    ):
        state[ours] = torch.from_numpy(flat.pop(theirs))
    return config, state | {name: torch.from_numpy(value) for name, value in flat.items()}


def _flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
