"""MaskGIT (Chang et al. 2022, arXiv:2202.04200): a transformer that predicts masked image tokens.

Tokens are (B, L) int64: the L = side x side latent tokens of an image row by row, and MASK (-1)
where a token is not known. One class serves two networks. The published one for ImageNet at 256 px
is class-conditional: the label is one more token, put in front. Those that `00_train_generator.py
maskgit` trains know no labels. Used by 00 and by in- and out-painting.
"""

from typing import NamedTuple

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


# ---------------------------------------------------------------- the network
class Layer(nn.Module):
    """A layer of BERT: LayerNorm after each half, eps 1e-12, tanh GELU, as in the official code."""

    def __init__(self, dim, heads, mlp, dropout):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, mlp)
        self.fc2 = nn.Linear(mlp, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x):
        """x (B, tokens, dim) -> the same shape."""
        p = self.dropout if self.training else 0.0
        attended = self.out(self.attention(x, p))
        x = self.norm1(x + F.dropout(attended, p))
        hidden = F.gelu(self.fc1(x), approximate="tanh")
        return self.norm2(x + F.dropout(self.fc2(hidden), p))

    def attention(self, x, p):
        batch, length, dim = x.shape
        width = dim // self.heads
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return attended.transpose(1, 2).reshape(batch, length, dim)


class MaskGIT(nn.Module):
    """The transformer. What is not given is as PUBLISHED.

    codes: the tokenizer's number of codes. classes: 0 for a network without labels. tokens: L, the
    number of an image's tokens. The vocabulary holds the codes, the classes and, last, the masked
    token. The output layer is tied to the embedding of the words.
    """

    def __init__(self, dropout=0.1, **config):
        super().__init__()
        self.config = PUBLISHED | config
        codes, classes, tokens, layers, dim, heads, mlp = self.config.values()
        self.codes = codes
        self.classes = classes
        self.dropout = dropout
        vocabulary = codes + classes + 1
        positions = tokens + 1 if classes else tokens  # a label stands in front
        self.word = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(positions, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        stack = [Layer(dim, heads, mlp, dropout) for _ in range(layers)]
        self.layers = nn.ModuleList(stack)
        self.head = nn.Linear(dim, dim)
        self.head_norm = nn.LayerNorm(dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                # The paper's initialisation: a normal of deviation 0.02, cut at two deviations.
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens, labels=None, where=None):
        """Logits over the codes, (number of predicted tokens, codes).

        tokens: (B, L) with MASK. labels: (B,) in [0, classes), None for a network without labels.
        where: the tokens to predict as bool (B, L), or as numbers (N,) into the flattened batch, so
        that nothing waits for the GPU. None for all.
        """
        masked_word = self.word.num_embeddings - 1
        ids = torch.where(tokens == MASK, masked_word, tokens)
        if self.classes:
            words = labels[:, None] + self.codes  # the classes follow the codes
            ids = torch.cat([words, ids], 1)
        x = self.norm(self.word(ids) + self.position.weight)
        x = F.dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        if self.classes:
            x = x[:, 1:]
        x = x.flatten(0, 1)
        if where is not None:  # tokens that are known need no logits
            x = x[where.flatten()]
        x = F.gelu(self.head(x), approximate="tanh")
        x = self.head_norm(x)
        codes = self.word.weight[: self.codes]
        bias = self.bias[: self.codes]
        return F.linear(x, codes, bias)


# ---------------------------------------------------------------- decoding
def decode(predict, tokens, draw, noise, shares, start=0, *, temperature=4.5):
    """Iterative parallel decoding (section 3.2 of the paper): (B, L) with MASK -> (B, L) without.

    Each step predicts every masked token and keeps those of which it is most confident; the others
    are masked again. The details are those of the official code. Known tokens never change.

    predict(tokens, unknown): logits (number of unknown tokens, codes). unknown: bool (B, L).
    draw(step, logits, unknown): code ids (number of unknown tokens,).
    noise(step): Gumbel noise (B, L), added to the confidence times `temperature`, which falls to 0.
    shares: for each step the share of the tokens masked at first that are masked again after it;
    the last step leaves none. start: the step to begin with.
    """
    masked_at_first = (tokens == MASK).sum(1)
    steps = len(shares)
    for step in range(start, steps):
        unknown = tokens == MASK
        logits = predict(tokens, unknown).float()
        ids = draw(step, logits, unknown)
        filled = tokens.masked_scatter(unknown, ids)
        if step == steps - 1:
            break
        drawn = logits.gather(1, ids[:, None]).squeeze(1)
        log_probability = drawn - logits.logsumexp(1)
        confidence = torch.full(tokens.shape, torch.inf, device=tokens.device)
        confidence.masked_scatter_(unknown, log_probability)
        confidence += temperature * (1 - (step + 1) / steps) * noise(step)
        keep_masked = (masked_at_first * shares[step]).floor().long()
        at_most = unknown.sum(1) - 1
        keep_masked = torch.minimum(keep_masked, at_most).clamp(min=1)
        in_order = confidence.sort(1).values
        cutoff = in_order.gather(1, keep_masked[:, None])
        tokens = filled.masked_fill(confidence < cutoff, MASK)
    return filled


# ---------------------------------------------------------------- drawing
class Sampling(NamedTuple):
    """How tokens are drawn. shares, temperature: see `decode`; the others: see `narrow`."""

    shares: list[float]
    temperature: float = 4.5
    top_k: int | None = None
    softmax_temperature: float = 1.0


def sample(model, tokens, labels, rngs, sampling):
    """Fill the MASK of tokens (B, L) with codes that the model draws; sampling: a Sampling.

    rngs: one numpy Generator for each image, so that its tokens do not depend on its batch.
    """
    shares, temperature, *narrowing = sampling
    uniform = uniforms(rngs, len(shares), tokens.shape[1], tokens.device)
    tiny = torch.finfo(torch.float32).tiny

    def predict(tokens, unknown):
        logits = model(tokens, labels, unknown).float()
        return narrow(logits, *narrowing)

    def draw(step, logits, unknown):
        return inverse_cdf(logits, uniform[step, 0][unknown])

    def gumbel(step):
        exponential = -uniform[step, 1].clamp(min=tiny).log()
        return -exponential.clamp(min=tiny).log()

    return decode(predict, tokens, draw, gumbel, shares, temperature=temperature)


def uniforms(rngs, steps, length, device):
    """Uniform numbers in [0, 1): (steps, 2, B, length) float32 on the device.

    Each image takes its own from its own generator: for each step and token one for the draw and
    one for the confidence.
    """
    shape = (steps, 2, length)
    of_images = [rng.random(shape, dtype=np.float32) for rng in rngs]
    stacked = np.stack(of_images, 2)
    return torch.from_numpy(stacked).to(device, non_blocking=True)


def narrow(logits, top_k=None, softmax_temperature=1.0):
    """Logits (N, codes) with unlikely codes made less likely or impossible (-inf).

    softmax_temperature: the logits are divided by it; below 1, likely codes become likelier still.
    top_k: only the k likeliest codes remain, and those as likely as the k-th. None: all.
    The default changes nothing: the published model draws from its plain softmax.
    """
    if softmax_temperature != 1:
        largest = logits.amax(1, keepdim=True)
        logits = (logits - largest) / softmax_temperature
    if top_k is not None and top_k < logits.shape[1]:
        weakest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    return logits


def inverse_cdf(logits, u):
    """Draw ids (N,) from softmax(logits) (N, codes), given u (N,) uniform in [0, 1).

    One uniform number for a token is enough. (A Gumbel number for each code is the usual way.)
    """
    cumulative = logits.softmax(1).cumsum(1)
    total = cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, u[:, None] * total, right=True).squeeze(1)
    last = logits.shape[1] - 1
    return ids.clamp(max=last)
