"""Exports trained weights as safetensors, or as PyTorch's file in the layout of the authors' code.

Both are written under another name, read back and compared, and only then renamed.
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
    """Writes every variable by its path (`params/head/...`), with the description and `metadata` as metadata.

    `load_checkpoint` returns exactly the same network.
    """
    from safetensors.numpy import save

    tensors, described = flat(checkpoint.variables), {KEY: description(checkpoint), **(metadata or {})}
    with replacing(path) as partial:
        partial.write_bytes(save(tensors, {**described, CHECKSUMS: checksums(tensors, described)}))
        _check_equal(checkpoint, partial, path)


def export_torch(checkpoint: Checkpoint, path: Path) -> None:
    """Writes `{"state_dict": ...}` with the names of the authors' code, and the description beside it.

    Their network has ImageNet's classifier too, `pretrained.fc`, which it does not use: load with `strict=False`.

    Raises:
      InputError: torch is not installed, or the network takes images of more than 8 bits.
    """
    if checkpoint.bits > 8:
        raise InputError(
            f"--format=torch: the network was trained on images of {checkpoint.bits} bits, and the authors' code, "
            "whose layout this is, reads 8; export it as safetensors, stablehlo or onnx",
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
        buffer = io.BytesIO()  # not to the disk: torch raises no OSError when it is full
        torch.save(content, buffer)
        partial.write_bytes(buffer.getbuffer())
        _check_equal(checkpoint, partial, path)


def flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns variables by their path, `params/backbone/...` and `batch_stats/backbone/...`, in contiguous float32."""
    return {
        name: np.ascontiguousarray(leaf, np.float32).reshape(np.shape(leaf))
        for name, leaf in flatten_dict(variables, sep="/").items()
    }


def description(checkpoint: Checkpoint) -> str:
    """Returns what the file says about the network, in JSON."""
    return Description.of(
        checkpoint.network, checkpoint.classes, checkpoint.config, checkpoint.bits
    ).to_json()


def _check_equal(checkpoint: Checkpoint, partial: Path, path: Path) -> None:
    again = load_checkpoint(partial)
    expected, found = flat(checkpoint.variables), flat(again.variables)
    same = expected.keys() == found.keys() and all(
        np.array_equal(found[name], expected[name], equal_nan=True) for name in expected
    )
    if not same or description(again) != description(checkpoint):
        raise InputError(
            f"{path}: differs from the network when it is read back; it is not kept", what=str(path)
        )
