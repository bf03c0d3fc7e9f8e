"""Exports trained weights as safetensors, or as a PyTorch file in the layout of the authors' code.

Each file is written to a temporary name, read back and compared, and only then renamed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from danet_jax.errors import InputError
from danet_jax.runs.files import replacing
from danet_jax.weights.checkpoint import Checkpoint, load_checkpoint
from danet_jax.weights.convert import to_state_dict
from danet_jax.weights.description import CHECKSUMS, KEY, Description, checksums


def export_safetensors(checkpoint: Checkpoint, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes every variable under its path (`params/head/...`), and the network's description.

    `load_checkpoint` reads exactly the same network from the file.

    Args:
      checkpoint: a complete network.
      path: the path of the file.
      metadata: further metadata of the file.

    Raises:
      InputError: the file cannot be written, or differs from the network when it is read back.
    """
    from safetensors.numpy import save

    tensors, described = flat(checkpoint.variables), {KEY: description(checkpoint), **(metadata or {})}
    with replacing(path) as partial:
        partial.write_bytes(save(tensors, {**described, CHECKSUMS: checksums(tensors, described)}))
        _check_equal(checkpoint, partial, path)


def export_torch(checkpoint: Checkpoint, path: Path) -> None:
    """Writes `{"state_dict": ...}` with the names of the authors' code, and the network's description next to it.

    The authors' network also has an ImageNet classifier, `pretrained.fc`, which it does not use. Load the file there
    with `strict=False`.

    Args:
      checkpoint: a complete network.
      path: the path of the file.

    Raises:
      InputError: torch is not installed, the network takes images of more than 8 bits, or the file cannot be written
        or differs from the network when it is read back.
    """
    if checkpoint.bits > 8:
        raise InputError(
            f"--format=torch is for the authors' code, which reads 8-bit images, but the network was trained on "
            f"{checkpoint.bits}-bit images; use safetensors, stablehlo or onnx",
            what="--format=torch",
            value=checkpoint.bits,
            allowed=8,
        )
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("--format=torch needs torch: pip install torch", what="--format=torch") from None
    state_dict = to_state_dict(vars(checkpoint.network), checkpoint.variables, "authors")
    described = description(checkpoint)
    content = {
        "state_dict": {name: torch.tensor(array) for name, array in state_dict.items()},
        KEY: described,
        CHECKSUMS: checksums(state_dict, {KEY: described}),
    }
    with replacing(path) as partial:
        buffer = io.BytesIO()  # Not the file itself: torch raises no OSError when the disk is full.
        torch.save(content, buffer)
        partial.write_bytes(buffer.getbuffer())
        _check_equal(checkpoint, partial, path)


def flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns contiguous float32 arrays by path, such as `params/backbone/...` or `batch_stats/backbone/...`."""
    return {
        name: np.ascontiguousarray(leaf, np.float32).reshape(np.shape(leaf))
        for name, leaf in flatten_dict(variables, sep="/").items()
    }


def description(checkpoint: Checkpoint) -> str:
    """Returns the description of the network as JSON."""
    return Description(checkpoint.network, checkpoint.classes, checkpoint.config, checkpoint.bits).to_json()


def _check_equal(checkpoint: Checkpoint, partial: Path, path: Path) -> None:
    loaded = load_checkpoint(partial)
    expected, found = flat(checkpoint.variables), flat(loaded.variables)
    same = expected.keys() == found.keys() and all(
        np.array_equal(found[name], expected[name], equal_nan=True) for name in expected
    )
    if not same or description(loaded) != description(checkpoint):
        raise InputError(
            f"{path} differs from the network when it is read back, so it is not kept", what=str(path)
        )
