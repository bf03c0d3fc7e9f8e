"""The names of the network's variables in published state dicts.

authors   `pretrained.*`, `head.*`                           github.com/junfu1115/DANet
mmseg     `backbone.*`, `decode_head.*`, `auxiliary_head.*`  mmsegmentation 0.x and 1.x
backbone  `conv1.weight`, `layer1.0.*`, `fc.*`               torchvision, timm, PyTorch-Encoding, mmpretrain
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The names of each module of the heads and of the scalars alpha and beta, in the authors' code and in mmsegmentation.
_HEADS = {
    "head/position_in/conv": ("head.conv5a.0", "decode_head.pam_in_conv.conv"),
    "head/position_in/bn": ("head.conv5a.1", "decode_head.pam_in_conv.bn"),
    "head/position_attention/query": ("head.sa.query_conv", "decode_head.pam.query_project"),
    "head/position_attention/key": ("head.sa.key_conv", "decode_head.pam.key_project"),
    "head/position_attention/value": ("head.sa.value_conv", "decode_head.pam.value_project"),
    "head/position_attention/alpha": ("head.sa.gamma", "decode_head.pam.gamma.scale"),
    "head/position_out/conv": ("head.conv51.0", "decode_head.pam_out_conv.conv"),
    "head/position_out/bn": ("head.conv51.1", "decode_head.pam_out_conv.bn"),
    "head/position_classifier": ("head.conv6.1", "decode_head.pam_conv_seg"),
    "head/channel_in/conv": ("head.conv5c.0", "decode_head.cam_in_conv.conv"),
    "head/channel_in/bn": ("head.conv5c.1", "decode_head.cam_in_conv.bn"),
    "head/channel_attention/beta": ("head.sc.gamma", "decode_head.cam.gamma.scale"),
    "head/channel_out/conv": ("head.conv52.0", "decode_head.cam_out_conv.conv"),
    "head/channel_out/bn": ("head.conv52.1", "decode_head.cam_out_conv.bn"),
    "head/channel_classifier": ("head.conv7.1", "decode_head.cam_conv_seg"),
    "head/fusion_classifier": ("head.conv8.1", "decode_head.conv_seg"),
    "head/fcn_in/conv": ("head.conv5.0", "decode_head.convs.0.conv"),
    "head/fcn_in/bn": ("head.conv5.1", "decode_head.convs.0.bn"),
    "head/fcn_classifier": ("head.conv5.4", "decode_head.conv_seg"),
    "auxiliary/in/conv": ("auxlayer.conv5.0", "auxiliary_head.convs.0.conv"),
    "auxiliary/in/bn": ("auxlayer.conv5.1", "auxiliary_head.convs.0.bn"),
    "auxiliary/classifier": ("auxlayer.conv5.4", "auxiliary_head.conv_seg"),
}
HEADS = {
    layout: {path: names[index] for path, names in _HEADS.items()}
    for index, layout in enumerate(("authors", "mmseg"))
}
"""The name of each module by layout and by the module's path."""

LAYOUTS = (*HEADS, "backbone")
PREFIXES = {"authors": "pretrained.", "mmseg": "backbone.", "backbone": ""}

READ_FROM_TENSORS = (
    "num_classes",
    "backbone",
    "stem",
    "position_attention",
    "channel_attention",
    "auxiliary",
)
"""Options of `DANet` that follow from the names and shapes of its variables."""

# The convolutions and BNs of a deep stem are in a Sequential, except for the last BN in PyTorch-Encoding.
DEEP_STEMS = {
    "encoding": (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")),
    "mmseg": (("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")),
}

SCALARS = ("alpha", "beta")
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_DOWNSAMPLE = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}


def tensor_name(path: str, layout: str, deep_stem: str, options: Mapping[str, Any]) -> str:
    """Returns the name of a variable in a state dict.

    Args:
      path: the path of the variable in Flax, such as `params/backbone/layer1_0/conv1/kernel`.
      layout: one of `LAYOUTS`.
      deep_stem: one of `DEEP_STEMS`, the naming style of a stem with three convolutions.
      options: the network's options. Without attention, the fusion's classifier has another name.
    """
    _, *module, leaf = path.split("/")
    if leaf in SCALARS:
        return HEADS[layout]["/".join([*module, leaf])]
    if module[0] != "backbone":
        name = "/".join(module)
        if name == "head/fusion_classifier" and not has_attention(options):
            name = "head/fcn_classifier"
        return f"{HEADS[layout][name]}.{_LEAVES[leaf]}"
    _, block, part = module
    if block == "stem":
        kind, number = part[:-1], int(part[-1])
        part_name = part if options["stem"] == "v1" else DEEP_STEMS[deep_stem][number - 1][kind == "bn"]
    else:
        part_name = f"{block.replace('_', '.')}.{_DOWNSAMPLE.get(part, part)}"
    return f"{PREFIXES[layout]}{part_name}.{_LEAVES[leaf]}"


def has_attention(options: Mapping[str, Any]) -> bool:
    """Returns whether a network with these options has at least one attention branch."""
    return options["position_attention"] or options["channel_attention"]
