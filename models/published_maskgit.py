"""MaskGIT's two published files (flax, msgpack) -> state dicts of VQGAN and MaskGIT.

The configurations are read off the shapes, so that a tiny file of the same format loads as well. A
tensor that has no place here keeps its name in the file: the strict load then lists it.
"""

from pathlib import Path

import msgpack
import numpy as np
import torch

from base import run
from models import vqgan

RES_BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "shortcut",
}
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def read_flax(path):
    """A flax msgpack file -> nested dict of numpy arrays; nothing in it is executed.

    An array is extension type 1, which holds (shape, name of the dtype, raw bytes). Nothing else
    occurs in these files, and anything else is refused.
    """
    try:
        tree = msgpack.unpackb(
            Path(path).read_bytes(), ext_hook=_array, strict_map_key=False, max_ext_len=2**31 - 1
        )
        return tree["params"]
    except FileNotFoundError:
        run.fail(f"{path} does not exist.")
    except Exception as error:  # msgpack has many ways to say that a file is not msgpack
        reason = f"{type(error).__name__}: {error}"
        run.fail(f"{path} is not a flax checkpoint with 'params' ({reason}).")


def _array(code, data):
    if code != 1:
        raise ValueError(f"extension type {code}")
    shape, dtype, raw = msgpack.unpackb(data, strict_map_key=False)
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def _flatten(tree, prefix=()):
    """Nested dict -> {(name, name, ...): array}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, (*prefix, name))
        else:
            flat[(*prefix, name)] = value
    return flat


# ---------------------------------------------------------------- the tokenizer
def tokenizer_from_flax(params):
    """{'encoder', 'decoder', 'quantizer'} of the published file -> (config, state dict of VQGAN).

    The decoder has one convolution a level and one more. Every level, like the middle, has the
    same number of residual blocks.
    """
    encoder = params["encoder"]
    levels = _count(params["decoder"], "Conv_") - 1
    blocks = _count(encoder, "ResBlock_") // (levels + 1)
    filters = encoder["Conv_0"]["kernel"].shape[-1]
    multipliers = []
    for level in range(levels):
        first_block = encoder[f"ResBlock_{level * blocks}"]
        multipliers.append(first_block["Conv_0"]["kernel"].shape[-1] // filters)
    (codebook,) = params["quantizer"].values()
    codes, dim = codebook.shape
    config = {
        **vqgan.PUBLISHED,
        "filters": filters,
        "multipliers": multipliers,
        "blocks": blocks,
        "codes": codes,
        "dim": dim,
    }

    state = {"codebook": torch.from_numpy(codebook)}
    for half, last_convolution in (("encoder", 1), ("decoder", levels)):
        for path, value in _flatten(params[half]).items():
            if value.ndim == 4:
                value = value.transpose(3, 2, 0, 1).copy()  # HWIO -> OIHW
            name = _tokenizer_name(path, last_convolution)
            state[f"{half}.{name}"] = torch.from_numpy(value)
    return config, state


def _count(tree, prefix):
    return sum(name.startswith(prefix) for name in tree)


def _tokenizer_name(path, last_convolution):
    """('ResBlock_3', 'Conv_0', 'kernel') -> 'blocks.3.conv1.weight', for encoder and decoder."""
    module, *inside, leaf = path
    leaf = LEAF.get(leaf, leaf)
    kind, _, number = module.rpartition("_")
    if kind == "ResBlock":
        inside = [RES_BLOCK.get(child, child) for child in inside]
        return ".".join(["blocks", number, *inside, leaf])
    if module == "GroupNorm_0":
        return f"norm.{leaf}"
    if module == "Conv_0":
        return f"stem.{leaf}"
    if module == f"Conv_{last_convolution}":
        return f"out.{leaf}"
    if kind == "Conv":
        return f"ups.{int(number) - 1}.{leaf}"
    return ".".join([module, *inside, leaf])


# ---------------------------------------------------------------- the transformer
def transformer_from_flax(params, codes):
    """The published parameters -> (config, state dict of MaskGIT); codes: of the tokenizer."""
    flat = {"/".join(path): value for path, value in _flatten(params).items()}
    words, dim = flat["Embed_0/word_embeddings/embedding"].shape
    positions = len(flat["Embed_0/position_embeddings/embedding"])
    classes = words - codes - 1
    config = {
        "codes": codes,
        "classes": classes,
        "tokens": positions - 1 if classes else positions,  # a label is one more position
        "layers": _count(params, "TransformerLayer_"),
        "dim": dim,
        "heads": flat["TransformerLayer_0/Attention_0/self_attention/query/kernel"].shape[1],
        "mlp": flat["TransformerLayer_0/Mlp_0/intermediate_output/kernel"].shape[1],
    }

    state = {}
    for i in range(config["layers"]):
        ours = f"layers.{i}"
        theirs = f"TransformerLayer_{i}"
        attention = f"{theirs}/Attention_0/self_attention"
        query_key_value = [f"{attention}/query", f"{attention}/key", f"{attention}/value"]
        state |= _linear(flat, f"{ours}.qkv", query_key_value, dim)
        state |= _linear(flat, f"{ours}.out", [f"{attention}/out"], dim)
        state |= _linear(flat, f"{ours}.fc1", [f"{theirs}/Mlp_0/intermediate_output"], dim)
        state |= _linear(flat, f"{ours}.fc2", [f"{theirs}/Mlp_0/layer_output"], config["mlp"])
        state |= _norm(flat, f"{ours}.norm1", f"{theirs}/Attention_0/attention_output_ln")
        state |= _norm(flat, f"{ours}.norm2", f"{theirs}/Mlp_0/layer_output_ln")
    state |= _linear(flat, "head", ["MlmLayer_0/mlm_dense"], dim)
    state |= _norm(flat, "head_norm", "MlmLayer_0/mlm_ln")
    state |= _norm(flat, "norm", "Embed_0/embeddings_ln")
    state["word.weight"] = flat.pop("Embed_0/word_embeddings/embedding")
    state["position.weight"] = flat.pop("Embed_0/position_embeddings/embedding")
    state["bias"] = flat.pop("MlmLayer_0/mlm_bias/bias")
    state |= flat
    return config, {name: torch.from_numpy(value) for name, value in state.items()}


def _linear(flat, name, sources, width_in):
    """One Linear from the Dense layers `sources`, one under the other; takes them out of `flat`.

    flax keeps a kernel as (in, out), in attention as (in, heads, width) or (heads, width, out).
    """
    kernels, biases = [], []
    for source in sources:
        kernels.append(flat.pop(f"{source}/kernel").reshape(width_in, -1).T)
        biases.append(flat.pop(f"{source}/bias").ravel())
    return {f"{name}.weight": np.concatenate(kernels), f"{name}.bias": np.concatenate(biases)}


def _norm(flat, name, source):
    """One LayerNorm; takes it out of `flat`."""
    return {
        f"{name}.weight": flat.pop(f"{source}/scale"),
        f"{name}.bias": flat.pop(f"{source}/bias"),
    }
