"""The files of a MaskGIT: those that 00 trains, and the two published ones (flax, msgpack).

Used by 00 and by in- and out-painting. The configurations of the published networks are read off
the shapes, so that a tiny file of the same format loads as well. A tensor that has no place here
keeps its name in the file: the strict load then lists it.
"""

import re
from pathlib import Path

import msgpack
import numpy as np
import torch

from base import run
from base.weights import cached, load_strictly, weight_file
from models import vqgan
from models.maskgit import MaskGIT

OURS = {  # parts of the names in the published files, replaced one after the other
    r"ResBlock_(\d+)": r"blocks.\1",
    r"(blocks.*)/GroupNorm_0": r"\1/norm1",
    r"(blocks.*)/Conv_0": r"\1/conv1",
    r"(blocks.*)/GroupNorm_1": r"\1/norm2",
    r"(blocks.*)/Conv_1": r"\1/conv2",
    r"(blocks.*)/Conv_2": r"\1/shortcut",
    "GroupNorm_0": "norm",
    "Conv_0": "stem",
    "encoder/Conv_1": "encoder/out",
    "quantizer/.*": "codebook",
    r"TransformerLayer_(\d+)": r"layers.\1",
    "Attention_0/self_attention/": "",
    "Attention_0/attention_output_ln": "norm1",
    "Mlp_0/intermediate_output": "fc1",
    "Mlp_0/layer_output_ln": "norm2",
    "Mlp_0/layer_output": "fc2",
    "MlmLayer_0/mlm_dense": "head",
    "MlmLayer_0/mlm_ln": "head_norm",
    "MlmLayer_0/mlm_bias/": "",
    "Embed_0/embeddings_ln": "norm",
    "Embed_0/(word|position)_embeddings": r"\1",
    "(kernel|scale|embedding)$": "weight",
    "/": ".",
}


# ---------------------------------------------------------------- loading
def load_maskgit(where=None, flag="--weights"):
    """A tokenizer and, if there is one, the transformer that predicts its tokens.

    where: a run folder of 00_train_generator.py or the generator.pth of one, or a folder with the
    two published files; flag: the flag that says where. None takes the published files from the
    cache or from the net. Returns (tokenizer, transformer or None, {file name: sha256}).
    tokenizer.image_size is the side of its images in pixels.
    """
    names = ["maskgit-tokenizer", "maskgit-transformer"]
    if not where:
        return load_published(*map(weight_file, names))
    for path in (Path(where), Path(where, "generator.pth")):
        if path.is_file():
            return load_trained(path)
    files = [Path(where, cached(name).name) for name in names]
    if not all(file.exists() for file in files):
        run.fail(
            f"{flag} {where} holds neither generator.pth (a finished run of "
            f"00_train_generator.py) nor the published files ({files[0].name}, {files[1].name})."
        )
    return load_published(*files)


def load_trained(path):
    """The same from a generator.pth."""
    saved = run.load(path)
    if not isinstance(saved, dict) or "tokenizer" not in saved:
        run.fail(f"{path} holds no tokenizer: give a run folder of 00_train_generator.py.")
    tokenizer = network(vqgan.VQGAN, saved["tokenizer_config"], saved["tokenizer"], path)
    tokenizer.image_size = saved["size"]
    transformer = None
    if "transformer" in saved:
        transformer = network(MaskGIT, saved["transformer_config"], saved["transformer"], path)
    return tokenizer, transformer, {path.name: run.file_hash(path)}


def load_published(*files):
    """The same from the two published files, the tokenizer's and the transformer's."""
    try:
        tokenizer = network(vqgan.VQGAN, *tokenizer_from_flax(read_flax(files[0])), files[0])
        codes = tokenizer.config["codes"]
        transformer = network(MaskGIT, *transformer_from_flax(read_flax(files[1]), codes), files[1])
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        run.fail(
            f"{files[0].parent}: {error} is missing or of another shape: these are not MaskGIT's "
            "two checkpoints."
        )
    tokenizer.image_size = round(transformer.config["tokens"] ** 0.5) * tokenizer.patch
    return tokenizer, transformer, {file.name: run.file_hash(file) for file in files}


def network(kind, config, state, file):
    """kind(**config) with the weights of a file, without drawing random ones first."""
    with torch.device("meta"):
        module = kind(**config)
    return load_strictly(module.to_empty(device="cpu"), state, file)


# ---------------------------------------------------------------- flax
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


def our_state(tree, prefix=""):
    """Nested dict of flax -> {our name: tensor in our layout}."""
    state = {}
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, dict):
            state |= our_state(value, f"{path}/")
            continue
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)  # HWIO -> OIHW
        elif path.endswith("out/kernel"):
            value = value.reshape(-1, value.shape[-1]).T  # (heads, width, out)
        elif name == "kernel":
            value = value.reshape(len(value), -1).T  # (in, out), or in attention (in, heads, width)
        elif name == "bias":
            value = value.ravel()
        for theirs, ours in OURS.items():
            path = re.sub(theirs, ours, path)
        state[path] = torch.from_numpy(value.copy())
    return state


# ---------------------------------------------------------------- the two networks
def tokenizer_from_flax(params):
    """{'encoder', 'decoder', 'quantizer'} of the published file -> (config, state dict of VQGAN).

    The decoder has one convolution a level and one more. Every level, like the middle, has the
    same number of residual blocks.
    """
    levels = _count(params["decoder"], "Conv_") - 1
    blocks = _count(params["encoder"], "ResBlock_") // (levels + 1)
    state = our_state(params)
    for part in ("weight", "bias"):
        for level in range(1, levels):
            state[f"decoder.ups.{level - 1}.{part}"] = state.pop(f"decoder.Conv_{level}.{part}")
        state[f"decoder.out.{part}"] = state.pop(f"decoder.Conv_{levels}.{part}")
    filters = len(state["encoder.stem.weight"])
    widths = [len(state[f"encoder.blocks.{i * blocks}.conv1.weight"]) for i in range(levels)]
    codes, dim = state["codebook"].shape
    config = {
        "filters": filters,
        "multipliers": [width // filters for width in widths],
        "blocks": blocks,
        "codes": codes,
        "dim": dim,
    }
    return config, state


def transformer_from_flax(params, codes):
    """The published parameters -> (config, state dict of MaskGIT); codes: of the tokenizer."""
    state = our_state(params)
    layers = _count(params, "TransformerLayer_")
    for i in range(layers):
        for part in ("weight", "bias"):
            three = [state.pop(f"layers.{i}.{name}.{part}") for name in ("query", "key", "value")]
            state[f"layers.{i}.qkv.{part}"] = torch.cat(three)
    words, dim = state["word.weight"].shape
    positions = len(state["position.weight"])
    classes = words - codes - 1
    query = params["TransformerLayer_0"]["Attention_0"]["self_attention"]["query"]
    config = {
        "codes": codes,
        "classes": classes,
        "tokens": positions - 1 if classes else positions,  # a label is one more position
        "layers": layers,
        "dim": dim,
        "heads": len(query["bias"]),
        "mlp": len(state["layers.0.fc1.bias"]),
    }
    return config, state


def _count(tree, prefix):
    return sum(name.startswith(prefix) for name in tree)
