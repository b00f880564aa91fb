"""The files of a MaskGIT: those that 00 trains, and the two published ones (flax, msgpack).

Used by 00 and by in- and out-painting. The configurations of the published networks are read off
the shapes, so that a tiny file of the same format loads as well. A tensor that has no place here
keeps its name in the file: the strict load then lists it.
"""

from pathlib import Path

import msgpack
import numpy as np
import torch

from base import run
from base.weights import cached, load_strictly, weight_file
from models import vqgan
from models.maskgit import MaskGIT

RES_BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "shortcut",
}
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}


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
        tokenizer_config, tokenizer_state = tokenizer_from_flax(read_flax(files[0]))
        codes = tokenizer_config["codes"]
        config, state = transformer_from_flax(read_flax(files[1]), codes)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        run.fail(
            f"{files[0].parent}: {error} is missing or of another shape: these are not MaskGIT's "
            "two checkpoints."
        )
    tokenizer = network(vqgan.VQGAN, tokenizer_config, tokenizer_state, files[0])
    transformer = network(MaskGIT, config, state, files[1])
    tokenizer.image_size = round(config["tokens"] ** 0.5) * tokenizer.patch
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


def _flatten(tree, prefix=""):
    """Nested dict -> {"name/name/...": array}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
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
    """'ResBlock_3/Conv_0/kernel' -> 'blocks.3.conv1.weight', for encoder and decoder."""
    module, *inside, leaf = path.split("/")
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
    flat = _flatten(params)
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
        state |= _linear(flat, f"{ours}.qkv", query_key_value)
        state |= _linear(flat, f"{ours}.out", [f"{attention}/out"])
        state |= _linear(flat, f"{ours}.fc1", [f"{theirs}/Mlp_0/intermediate_output"])
        state |= _linear(flat, f"{ours}.fc2", [f"{theirs}/Mlp_0/layer_output"])
        state |= _norm(flat, f"{ours}.norm1", f"{theirs}/Attention_0/attention_output_ln")
        state |= _norm(flat, f"{ours}.norm2", f"{theirs}/Mlp_0/layer_output_ln")
    state |= _linear(flat, "head", ["MlmLayer_0/mlm_dense"])
    state |= _norm(flat, "head_norm", "MlmLayer_0/mlm_ln")
    state |= _norm(flat, "norm", "Embed_0/embeddings_ln")
    state["word.weight"] = flat.pop("Embed_0/word_embeddings/embedding")
    state["position.weight"] = flat.pop("Embed_0/position_embeddings/embedding")
    state["bias"] = flat.pop("MlmLayer_0/mlm_bias/bias")
    state |= flat
    return config, {name: torch.from_numpy(value) for name, value in state.items()}


def _linear(flat, name, sources):
    """One Linear from the Dense layers `sources`, one under the other; takes them out of `flat`.

    flax keeps a kernel as (in, out), in attention as (in, heads, width) or (heads, width, out).
    """
    kernels, biases = [], []
    for source in sources:
        bias = flat.pop(f"{source}/bias").ravel()
        kernels.append(flat.pop(f"{source}/kernel").reshape(-1, len(bias)).T)
        biases.append(bias)
    return {f"{name}.weight": np.concatenate(kernels), f"{name}.bias": np.concatenate(biases)}


def _norm(flat, name, source):
    """One LayerNorm; takes it out of `flat`."""
    return {
        f"{name}.weight": flat.pop(f"{source}/scale"),
        f"{name}.bias": flat.pop(f"{source}/bias"),
    }
