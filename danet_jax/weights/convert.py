"""Between PyTorch's state dicts and this network's variables, in both directions, in numpy alone.

A state dict is recognised by its keys and shapes; `danet_jax.weights.names` says which tensor is which, to
reading and to writing alike. Convolutions are OIHW there and HWIO here; BN's `weight` is `scale` here, and its
running statistics are a collection of their own, `batch_stats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from danet_jax.errors import InputError
from danet_jax.models.resnet import BLOCKS, STEMS, is_bottleneck
from danet_jax.weights.names import DEEP_STEMS, HEADS, LAYOUTS, PREFIXES, Recognised, Tensor, tensors

Variables = dict[str, Any]
"""`{"params": ..., "batch_stats": ...}`, nested dictionaries of arrays."""


class Converted(NamedTuple):
    """What a state dict holds.

    `options` are the arguments of `danet_jax.DANet` that can be read from tensors: `backbone` and `stem`, and
    with a head `num_classes`, `position_attention`, `channel_attention` and `auxiliary`. `variables` are float32;
    without a head they hold `backbone` alone. `dropped` names the tensors that have no use here.
    """

    options: dict[str, Any]
    variables: Variables
    dropped: tuple[str, ...]


def convert(state_dict: Mapping[str, Any]) -> Converted:
    """Variables from a state dict of numpy arrays, every one of which is used or named as dropped.

    Raises:
      InputError: it is no DANet and no ResNet that exists here, or tensors are missing, have another shape or
        are not known; the message lists them.
    """
    network, left_out = unwrapped(state_dict)
    recognised = recognise(network)
    variables, dropped = read(network, recognised)
    return Converted(recognised.options, variables, (*dropped, *left_out))


def read(state_dict: Mapping[str, Any], recognised: Recognised) -> tuple[Variables, tuple[str, ...]]:
    """The variables of a network that was recognised in a state dict, and the names that have no use; see `convert`."""
    variables: Variables = {"params": {}, "batch_stats": {}}
    used, missing, misshaped = set(), [], []
    for tensor in tensors(recognised):
        if tensor.key not in state_dict:
            if _is_absent_branch_classifier(tensor, recognised, state_dict):
                _put(variables, tensor.path, np.zeros(tensor.shape, np.float32))
            else:
                missing.append(tensor.key)
            continue
        used.add(tensor.key)
        value = np.asarray(state_dict[tensor.key])
        scalar = tensor.path[-1] in ("alpha", "beta")
        if (scalar and value.size != 1) or (not scalar and value.shape != tensor.shape):
            misshaped.append(f"{tensor.key} {list(value.shape)} (should be {list(tensor.shape)})")
        elif not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            misshaped.append(f"{tensor.key} of type {value.dtype} (should be of floating point)")
        else:
            _put(variables, tensor.path, value)
    unused = [key for key in state_dict if key not in used]
    dropped = tuple(key for key in unused if _is_droppable(key, recognised))
    unknown = sorted(set(unused) - set(dropped))
    problems = [
        f"{what}: {listed(names)}"
        for what, names in (("missing", missing), ("wrong shape", misshaped), ("unknown", unknown))
        if names
    ]
    if problems:
        described = "DANet" if recognised.has_head else "backbone"
        raise InputError(f"not a {recognised.options['backbone']} {described}: {'; '.join(problems)}")
    return variables, dropped


def to_state_dict(
    options: Mapping[str, Any], variables: Mapping[str, Any], layout: str = "authors"
) -> dict[str, np.ndarray]:
    """The inverse of `convert`: contiguous float32 arrays under the names of `layout` (see `LAYOUTS`).

    Args:
      options: at least what `Converted.options` has; only `backbone` and `stem` count for layout "backbone".
      variables: of the network with these options.
      layout: "authors", "mmseg", or "backbone" for the backbone alone.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} does not exist; there are: {', '.join(LAYOUTS)}")
    options = dict(options)
    if layout == "backbone":
        options = {key: options[key] for key in ("backbone", "stem")}
    recognised = Recognised(layout, "mmseg" if layout == "mmseg" else "encoding", options)
    result = {}
    for tensor in tensors(recognised):
        value: Any = variables
        for name in tensor.path:
            value = value[name]
        array = np.asarray(value, np.float32)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        result[tensor.key] = np.ascontiguousarray(array).reshape(tensor.shape)
    return result


def recognise(state_dict: Mapping[str, Any]) -> Recognised:
    """Which network a state dict (already `unwrapped`) belongs to.

    Raises:
      InputError: none that exists here.
    """
    layout = "backbone"
    for name in HEADS:
        if any(key.startswith(PREFIXES[name]) for key in state_dict):
            layout = name
    prefix = PREFIXES[layout]
    keys = {key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}
    counts = tuple(_count(keys, f"layer{layer}.") for layer in (1, 2, 3, 4))
    if not all(counts):
        raise InputError(
            "no weights of a DANet or a ResNet: the names are neither the authors' (pretrained.*, head.*), "
            "mmsegmentation's (backbone.*, decode_head.*) nor a ResNet's (conv1.weight, layer1.0.*, ...); "
            f"there are {listed(sorted(state_dict), 3) or 'none'}"
        )
    bottleneck = "layer1.0.conv3.weight" in keys
    backbones = [b for b in BLOCKS if BLOCKS[b] == counts and is_bottleneck(b) == bottleneck]
    if not backbones:
        raise InputError(
            f"a ResNet with {counts} {'bottleneck' if bottleneck else 'basic'} blocks does not exist here; "
            f"there are: {', '.join(BLOCKS)}"
        )
    options: dict[str, Any] = {"backbone": backbones[0]}
    stem_style = "mmseg" if "stem.0.weight" in keys else "encoding"
    deep = DEEP_STEMS[stem_style]
    if f"{deep[0][0]}.weight" in keys:
        widths = tuple(_length(state_dict, f"{prefix}{conv}.weight") for conv, _ in deep)
    else:
        widths = STEMS["v1"]
    stems = [stem for stem in STEMS if STEMS[stem] == widths]
    if not stems:
        raise InputError(f"a stem of {widths} channels does not exist here; there are: {STEMS}")
    options["stem"] = stems[0]
    if layout != "backbone":
        options |= _head_options(state_dict, HEADS[layout])
    return Recognised(layout, stem_style, options)


def _head_options(state_dict: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What the head's tensors say; nothing if there is no classifier, hence no head."""
    for classifier in ("head/fusion_classifier", "head/fcn_classifier"):
        key = f"{names[classifier]}.weight"
        if key in state_dict:
            return {
                "num_classes": _length(state_dict, key),
                "position_attention": f"{names['head/position_in/conv']}.weight" in state_dict,
                "channel_attention": f"{names['head/channel_in/conv']}.weight" in state_dict,
                "auxiliary": f"{names['auxiliary/in/conv']}.weight" in state_dict,
            }
    return {}


def unwrapped(state_dict: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The state dict without what wrappers put before its names, and the names of what is not the network's.

    DataParallel and DDP put `module.` there, torch.compile `_orig_mod.`, Lightning and others the name of an
    attribute (`model.`, `net.`), in any order. Losses and metrics beside the network are left out, and so are
    averaged copies of it (`ema_model.*`, mmcv's `ema_backbone_*`), whose owner keeps them beside what it uses.

    Raises:
      InputError: there are several networks.
    """
    plain = {".".join(p for p in key.split(".") if p not in _TRANSPARENT): v for key, v in state_dict.items()}
    if len(plain) < len(state_dict):
        plain = dict(
            state_dict
        )  # names that differ by a wrapper alone: two networks, which are told apart below
    roots = sorted({_root(key) for key in plain if key.endswith(_ANCHOR)})
    averaged = [root for root in roots if "ema" in root.lower()]
    if len(roots) > 1:
        roots = [root for root in roots if root not in averaged]
    if len(roots) > 1:
        raise InputError(
            f"holds several networks ({', '.join(root or 'one without a prefix' for root in roots)}); "
            "save the state_dict() of one of them"
        )
    root = roots[0] if roots else ""
    inside = {k.removeprefix(root): v for k, v in plain.items() if k.startswith(root)}
    copies = (*(f"{other}" for other in averaged if other != root), "ema_")
    network = {key: value for key, value in inside.items() if not key.startswith(copies)}
    left_out = [key for key in plain if not key.startswith(root) or key.removeprefix(root) not in network]
    return network, tuple(left_out)


_TRANSPARENT = ("module", "_orig_mod")
_ANCHOR = "layer1.0.conv1.weight"  # every ResNet has it


def _root(anchor: str) -> str:
    """What stands before the names of a layout, in the name of a ResNet's first block."""
    before = anchor.removesuffix(_ANCHOR)
    for prefix in PREFIXES.values():  # the empty one is the last
        if before.endswith(prefix):
            return before.removesuffix(prefix)
    return before


def _put(variables: Variables, path: tuple[str, ...], value: np.ndarray) -> None:
    """Sets the leaf at `path`; a kernel is left a view of the array that was read, not copied here."""
    value = value.astype(np.float32, copy=False)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif path[-1] in ("alpha", "beta"):
        value = value.reshape(())
    for name in path[:-1]:
        variables = variables.setdefault(name, {})
    variables[path[-1]] = value


def lacks_branch_classifiers(state_dict: Mapping[str, Any]) -> bool:
    """Whether these are the authors' first released weights, which have the fusion's classifier alone."""
    branches = ("position", "channel")
    keys = [f"{HEADS['authors'][f'head/{b}_classifier']}.weight" for b in branches]
    return "head.conv8.1.weight" in state_dict and not any(key in state_dict for key in keys)


def _is_absent_branch_classifier(
    tensor: Tensor, recognised: Recognised, state_dict: Mapping[str, Any]
) -> bool:
    branch = tensor.path[-2] in ("position_classifier", "channel_classifier")
    return branch and recognised.layout == "authors" and lacks_branch_classifiers(state_dict)


def _is_droppable(key: str, recognised: Recognised) -> bool:
    """ImageNet's classifier, BN's batch counter, and the unused head that the authors' first release kept."""
    if key.endswith(".num_batches_tracked"):
        return True
    if recognised.layout == "authors" and not recognised.options.get("auxiliary"):
        return key.startswith(("pretrained.fc.", "auxlayer."))
    return key.startswith((f"{PREFIXES[recognised.layout]}fc.", "fc.", "head.fc."))


def _count(keys: set[str], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})


def _length(state_dict: Mapping[str, Any], key: str) -> int:
    shape = np.shape(state_dict[key]) if key in state_dict else ()
    return shape[0] if shape else 0


def listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
