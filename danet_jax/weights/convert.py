"""Converts PyTorch state dicts to Flax variables and back, in NumPy.

A state dict is recognised by its keys and shapes; `danet_jax.weights.names` maps the names of variables. Convolution
kernels are OIHW in PyTorch and HWIO in Flax. The `weight` of a batch normalisation is called `scale` in Flax, and its
running statistics are in the collection `batch_stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import BLOCKS, STEMS, ResNet, is_bottleneck
from danet_jax.models.variables import variable_shapes
from danet_jax.weights.names import (
    DEEP_STEMS,
    HEADS,
    LAYOUTS,
    PREFIXES,
    READ_FROM_TENSORS,
    SCALARS,
    tensor_name,
)


class Converted(NamedTuple):
    """The network in a state dict.

    Attributes:
      layout: one of `danet_jax.weights.names.LAYOUTS`; "backbone" for every file without a head.
      options: the arguments of `danet_jax.DANet` that can be read from the tensors: `backbone` and `stem` and, with a
        head, `num_classes`, `position_attention`, `channel_attention` and `auxiliary`.
      variables: `{"params": ..., "batch_stats": ...}`, nested dictionaries of float32 arrays. Without a head, both
        contain only `backbone`.
      dropped: names of the tensors that are not used.
      fusion_only: whether these are the authors' first released weights, which have only the fusion's classifier. The
        classifiers of the branches are then set to zero.
    """

    layout: str
    options: dict[str, Any]
    variables: dict[str, Any]
    dropped: tuple[str, ...]
    fusion_only: bool


def convert(state_dict: Mapping[str, Any]) -> Converted:
    """Converts a state dict of NumPy arrays to Flax variables. Tensors that are not used are listed in `dropped`.

    Args:
      state_dict: tensors with the names of one of the layouts; see `remove_wrappers` for removing prefixes of wrappers.

    Returns:
      The network in the state dict.

    Raises:
      InputError: the state dict is not that of a supported DANet or ResNet, or tensors are missing, unknown or have the
        wrong shape; the message lists them.
    """
    layout, deep_stem, options = _recognise(state_dict)
    position, channel, fusion = (
        f"{HEADS['authors'][f'head/{branch}_classifier']}.weight" in state_dict
        for branch in ("position", "channel", "fusion")
    )
    fusion_only = fusion and not (position or channel)
    variables: dict[str, np.ndarray] = {}
    missing, misshaped, unused = [], [], dict.fromkeys(state_dict)
    for name, path, shape in _tensors(layout, deep_stem, options):
        if name not in state_dict:
            if fusion_only and path.split("/")[-2] in ("position_classifier", "channel_classifier"):
                variables[path] = _as_variable(np.zeros(shape, np.float32), path)
            else:
                missing.append(name)
            continue
        del unused[name]
        value = np.asarray(state_dict[name])
        if (value.size != 1) if path.endswith(SCALARS) else (value.shape != shape):
            misshaped.append(f"{name} {list(value.shape)} (expected {list(shape)})")
        elif not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            misshaped.append(f"{name} of type {value.dtype} (expected a float)")
        else:
            variables[path] = _as_variable(value, path)
    dropped = tuple(name for name in unused if _can_be_dropped(name, layout, options))
    problems = {
        "missing": missing,
        "wrong shape": misshaped,
        "unknown": sorted(unused.keys() - set(dropped)),
    }
    if any(problems.values()):
        network = f"{options['backbone']} {'DANet' if 'num_classes' in options else 'backbone'}"
        lists = "; ".join(f"{problem}: {join_names(names)}" for problem, names in problems.items() if names)
        raise InputError(f"not a {network}: {lists}", value={k: v for k, v in problems.items() if v})
    layout = layout if "num_classes" in options else "backbone"
    return Converted(layout, options, unflatten_dict(variables, sep="/"), dropped, fusion_only)


def to_state_dict(
    options: Mapping[str, Any], variables: Mapping[str, Any], layout: str = "authors"
) -> dict[str, np.ndarray]:
    """Converts Flax variables to a state dict. This is the inverse of `convert`.

    Args:
      options: at least the options in `Converted.options`; for the layout "backbone", only `backbone` and `stem`.
      variables: the variables of the network with these options.
      layout: "authors", "mmseg", or "backbone" for the backbone alone.

    Returns:
      Contiguous float32 arrays by the layout's names.

    Raises:
      InputError: `layout` does not exist.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout={layout!r} does not exist; there are: {', '.join(LAYOUTS)}", what="layout")
    kept = ("backbone", "stem") if layout == "backbone" else READ_FROM_TENSORS
    options = {name: options[name] for name in kept}
    arrays = flatten_dict(variables, sep="/")
    result = {}
    for name, path, shape in _tensors(layout, "mmseg" if layout == "mmseg" else "encoding", options):
        array = np.asarray(arrays[path], np.float32)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        result[name] = np.ascontiguousarray(array).reshape(shape)
    return result


def _tensors(
    layout: str, deep_stem: str, options: Mapping[str, Any]
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yields each variable's name in the state dict, its path in Flax, and its shape in the state dict."""
    has_head = "num_classes" in options
    model, prefix = (DANet(**options), "") if has_head else (ResNet(**options), "backbone/")
    for path, leaf in flatten_dict(variable_shapes(model), sep="/").items():
        collection, _, rest = path.partition("/")
        path, shape = f"{collection}/{prefix}{rest}", leaf.shape
        if len(shape) == 4:
            shape = tuple(shape[axis] for axis in (3, 2, 0, 1))
        elif path.endswith(SCALARS) and layout == "authors":
            shape = (1,)
        yield tensor_name(path, layout, deep_stem, options), path, shape


def _as_variable(value: np.ndarray, path: str) -> np.ndarray:
    """Returns a tensor in the layout of the variable at `path`. Kernels remain views of the array that was read."""
    value = value.astype(np.float32, copy=False)
    if path.endswith(SCALARS):
        return value.reshape(())
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _recognise(state_dict: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Returns the layout, the naming style of a deep stem and the network's options, from names and shapes.

    Raises:
      InputError: the network is not supported.
    """
    named = (name for name in HEADS if any(key.startswith(PREFIXES[name]) for key in state_dict))
    layout = next(named, "backbone")
    prefix = PREFIXES[layout]
    keys = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
    counts = tuple(_count(keys, f"layer{layer}.") for layer in (1, 2, 3, 4))
    if not all(counts):
        raise InputError(
            "contains neither a DANet nor a ResNet: expected the tensor names of the authors (pretrained.*, head.*), "
            "mmsegmentation (backbone.*, decode_head.*) or a ResNet (conv1.weight, layer1.0.*, ...), found "
            f"{join_names(sorted(state_dict), 3) or 'none'}",
            value=sorted(state_dict),
        )
    bottleneck = "layer1.0.conv3.weight" in keys
    backbones = [b for b in BLOCKS if BLOCKS[b] == counts and is_bottleneck(b) == bottleneck]
    if not backbones:
        raise InputError(
            f"contains a ResNet with {counts} {'bottleneck' if bottleneck else 'basic'} blocks, which is not "
            f"supported; there are: {', '.join(BLOCKS)}",
            value=counts,
            allowed=BLOCKS,
        )
    deep_stem = "mmseg" if "stem.0.weight" in keys else "encoding"
    convolutions = [conv for conv, _ in DEEP_STEMS[deep_stem]]
    widths = STEMS["v1"]
    if f"{convolutions[0]}.weight" in keys:
        widths = tuple(_length(state_dict, f"{prefix}{conv}.weight") for conv in convolutions)
    stems = [stem for stem in STEMS if STEMS[stem] == widths]
    if not stems:
        raise InputError(
            f"contains a stem of {widths} channels, which is not supported; there are: {STEMS}",
            value=widths,
            allowed=STEMS,
        )
    options = {"backbone": backbones[0], "stem": stems[0]}
    return layout, deep_stem, options | _head_options(state_dict, HEADS.get(layout, {}))


def _head_options(state_dict: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the options that the head's tensors determine. They are empty if there is no classifier."""
    for classifier in ("head/fusion_classifier", "head/fcn_classifier"):
        if names and (key := f"{names[classifier]}.weight") in state_dict:
            return {
                "num_classes": max(_length(state_dict, key), 1),
                "position_attention": f"{names['head/position_in/conv']}.weight" in state_dict,
                "channel_attention": f"{names['head/channel_in/conv']}.weight" in state_dict,
                "auxiliary": f"{names['auxiliary/in/conv']}.weight" in state_dict,
            }
    return {}


def remove_wrappers(state_dict: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Returns the state dict without prefixes of wrappers, and the names of tensors outside the network.

    DataParallel and DDP add the prefix `module.`, torch.compile adds `_orig_mod.`, and Lightning and others add the
    name of an attribute (`model.`, `net.`), in any order. Losses, metrics and averaged copies of the network
    (`ema_model.*`, mmcv's `ema_backbone_*`) are left out.

    Raises:
      InputError: the state dict contains several networks.
    """
    plain = {".".join(p for p in key.split(".") if p not in _WRAPPERS): v for key, v in state_dict.items()}
    if len(plain) < len(
        state_dict
    ):  # Two networks differ only by a wrapper's prefix. They are reported below.
        plain = dict(state_dict)
    roots = sorted({_root(key) for key in plain if key.endswith(_ANCHOR)})
    averaged = [root for root in roots if "ema" in root.lower()]
    if len(roots) > 1:
        roots = [root for root in roots if root not in averaged]
    if len(roots) > 1:
        raise InputError(
            f"contains several networks ({', '.join(root or 'one without a prefix' for root in roots)}); "
            "save the state_dict() of one of them",
            value=roots,
        )
    root = roots[0] if roots else ""
    copies = (*(other for other in averaged if other != root), "ema_")
    below_root = {k.removeprefix(root): v for k, v in plain.items() if k.startswith(root)}
    network = {key: value for key, value in below_root.items() if not key.startswith(copies)}
    left_out = [key for key in plain if not key.startswith(root) or key.removeprefix(root) not in network]
    return network, tuple(left_out)


_WRAPPERS = ("module", "_orig_mod")
_ANCHOR = "layer1.0.conv1.weight"  # Every ResNet has this tensor.


def _root(anchor: str) -> str:
    """Returns the prefix before the names of a layout, given the full name of `_ANCHOR`."""
    before = anchor.removesuffix(_ANCHOR)
    return next(before.removesuffix(prefix) for prefix in PREFIXES.values() if before.endswith(prefix))


def _can_be_dropped(name: str, layout: str, options: Mapping[str, Any]) -> bool:
    """Returns whether a tensor belongs to an ImageNet classifier, a BN counter or an unused head of the authors."""
    if name.endswith(".num_batches_tracked"):
        return True
    if layout == "authors" and not options.get("auxiliary"):
        return name.startswith(("pretrained.fc.", "auxlayer."))
    return name.startswith((f"{PREFIXES[layout]}fc.", "fc.", "head.fc."))


def _count(keys: set[str], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})


def _length(state_dict: Mapping[str, Any], key: str) -> int:
    shape = np.shape(state_dict[key]) if key in state_dict else ()
    return shape[0] if shape else 0


def join_names(names: list[str], most: int = 8) -> str:
    """Returns the first `most` names and the number of the others, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
