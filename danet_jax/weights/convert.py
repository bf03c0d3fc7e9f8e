"""Converts PyTorch's state dicts to this network's variables and back, in numpy.

A state dict is recognised by its keys and shapes; `danet_jax.weights.names` says what each variable is called there.
Convolutions are OIHW there and HWIO here; BN's `weight` is `scale` here, and its running statistics are a collection of
their own, `batch_stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import BLOCKS, STEMS, ResNet, is_bottleneck
from danet_jax.models.variables import variables_of
from danet_jax.weights.names import (
    DEEP_STEMS,
    HEADS,
    LAYOUTS,
    PREFIXES,
    READ_FROM_TENSORS,
    SCALARS,
    name_of,
)


class Converted(NamedTuple):
    """The network in a state dict.

    Attributes:
      layout: one of `danet_jax.weights.names.LAYOUTS`; "backbone" for a file without a head, whatever its names.
      options: the arguments of `danet_jax.DANet` that can be read from tensors: `backbone` and `stem`, and with a head
        `num_classes`, `position_attention`, `channel_attention` and `auxiliary`.
      variables: `{"params": ..., "batch_stats": ...}`, nested dictionaries of float32 arrays; without a head they hold
        `backbone` alone.
      dropped: names of the tensors that have no use here.
      fusion_only: whether these are the authors' first released weights, which have only the fusion's classifier;
        the classifiers of the branches are zeros.
    """

    layout: str
    options: dict[str, Any]
    variables: dict[str, Any]
    dropped: tuple[str, ...]
    fusion_only: bool


def convert(state_dict: Mapping[str, Any]) -> Converted:
    """Returns the variables in a state dict of numpy arrays, each of which is used or named as dropped.

    Args:
      state_dict: tensors with the names of one of the layouts; `unwrapped` removes the prefixes of wrappers.

    Raises:
      InputError: it is no DANet and no ResNet that exists here, or tensors are missing, have another shape or
        are not known; the message lists them.
    """
    layout, deep_stem, options = _recognised(state_dict)
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
        fits = value.size == 1 if path.endswith(SCALARS) else value.shape == shape
        if not fits:
            misshaped.append(f"{name} {list(value.shape)} (should be {list(shape)})")
        elif not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            misshaped.append(f"{name} of type {value.dtype} (should be of floating point)")
        else:
            variables[path] = _as_variable(value, path)
    dropped = tuple(name for name in unused if _is_droppable(name, layout, options))
    problems = {
        "missing": missing,
        "wrong shape": misshaped,
        "unknown": sorted(unused.keys() - set(dropped)),
    }
    if any(problems.values()):
        network = f"{options['backbone']} {'DANet' if 'num_classes' in options else 'backbone'}"
        lists = "; ".join(f"{problem}: {listed(names)}" for problem, names in problems.items() if names)
        raise InputError(f"not a {network}: {lists}", value={k: v for k, v in problems.items() if v})
    layout = layout if "num_classes" in options else "backbone"
    return Converted(layout, options, unflatten_dict(variables, sep="/"), dropped, fusion_only)


def to_state_dict(
    options: Mapping[str, Any], variables: Mapping[str, Any], layout: str = "authors"
) -> dict[str, np.ndarray]:
    """Returns the inverse of `convert`: contiguous float32 arrays under the names of `layout` (see `LAYOUTS`).

    Args:
      options: at least what `Converted.options` has; only `backbone` and `stem` count for layout "backbone".
      variables: the variables of the network with these options.
      layout: "authors", "mmseg", or "backbone" for the backbone alone.
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
    """Yields the name in a state dict, the path here and the shape in the state dict of each variable of a network."""
    has_head = "num_classes" in options
    model, prefix = (DANet(**options), "") if has_head else (ResNet(**options), "backbone/")
    for path, leaf in flatten_dict(variables_of(model), sep="/").items():
        collection, _, rest = path.partition("/")
        path, shape = f"{collection}/{prefix}{rest}", leaf.shape
        if len(shape) == 4:
            shape = tuple(shape[axis] for axis in (3, 2, 0, 1))
        elif path.endswith(SCALARS) and layout == "authors":
            shape = (1,)
        yield name_of(path, layout, deep_stem, options), path, shape


def _as_variable(value: np.ndarray, path: str) -> np.ndarray:
    """Returns a tensor as the variable at `path`; a kernel stays a view of the array that was read."""
    value = value.astype(np.float32, copy=False)
    if path.endswith(SCALARS):
        return value.reshape(())
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _recognised(state_dict: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Returns the layout, the style of a deep stem's names and the network's options, from names and shapes.

    Raises:
      InputError: it is no network that exists here.
    """
    named = (name for name in HEADS if any(key.startswith(PREFIXES[name]) for key in state_dict))
    layout = next(named, "backbone")
    prefix = PREFIXES[layout]
    keys = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
    counts = tuple(_count(keys, f"layer{layer}.") for layer in (1, 2, 3, 4))
    if not all(counts):
        raise InputError(
            "no weights of a DANet or a ResNet: the names are neither the authors' (pretrained.*, head.*), "
            "mmsegmentation's (backbone.*, decode_head.*) nor a ResNet's (conv1.weight, layer1.0.*, ...); "
            f"there are {listed(sorted(state_dict), 3) or 'none'}",
            value=sorted(state_dict),
        )
    bottleneck = "layer1.0.conv3.weight" in keys
    backbones = [b for b in BLOCKS if BLOCKS[b] == counts and is_bottleneck(b) == bottleneck]
    if not backbones:
        raise InputError(
            f"a ResNet with {counts} {'bottleneck' if bottleneck else 'basic'} blocks does not exist here; "
            f"there are: {', '.join(BLOCKS)}",
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
            f"a stem of {widths} channels does not exist here; there are: {STEMS}",
            value=widths,
            allowed=STEMS,
        )
    options = {"backbone": backbones[0], "stem": stems[0]}
    return layout, deep_stem, options | _head_options(state_dict, HEADS.get(layout, {}))


def _head_options(state_dict: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the options that the head's tensors say; none if there is no classifier, hence no head."""
    for classifier in ("head/fusion_classifier", "head/fcn_classifier"):
        if names and (key := f"{names[classifier]}.weight") in state_dict:
            return {
                "num_classes": max(_length(state_dict, key), 1),
                "position_attention": f"{names['head/position_in/conv']}.weight" in state_dict,
                "channel_attention": f"{names['head/channel_in/conv']}.weight" in state_dict,
                "auxiliary": f"{names['auxiliary/in/conv']}.weight" in state_dict,
            }
    return {}


def unwrapped(state_dict: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Returns the state dict without the prefixes of wrappers, and the names that do not belong to the network.

    DataParallel and DDP add the prefix `module.`, torch.compile `_orig_mod.`, Lightning and others the name of an
    attribute (`model.`, `net.`), in any order. Losses and metrics beside the network are left out, and so are averaged
    copies of it (`ema_model.*`, mmcv's `ema_backbone_*`).

    Raises:
      InputError: there are several networks.
    """
    plain = {".".join(p for p in key.split(".") if p not in _TRANSPARENT): v for key, v in state_dict.items()}
    if len(plain) < len(
        state_dict
    ):  # two networks whose names differ only by a wrapper; they are reported below
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
    inside = {k.removeprefix(root): v for k, v in plain.items() if k.startswith(root)}
    network = {key: value for key, value in inside.items() if not key.startswith(copies)}
    left_out = [key for key in plain if not key.startswith(root) or key.removeprefix(root) not in network]
    return network, tuple(left_out)


_TRANSPARENT = ("module", "_orig_mod")
_ANCHOR = "layer1.0.conv1.weight"  # every ResNet has it


def _root(anchor: str) -> str:
    """Returns what precedes the names of a layout, given the name of a ResNet's first convolution."""
    before = anchor.removesuffix(_ANCHOR)
    return next(before.removesuffix(prefix) for prefix in PREFIXES.values() if before.endswith(prefix))


def _is_droppable(name: str, layout: str, options: Mapping[str, Any]) -> bool:
    """Returns whether it belongs to ImageNet's classifier, BN's counter or an unused head of the authors."""
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


def listed(names: list[str], most: int = 8) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
