"""`--mode=export`: writes a trained network in a format that other software reads."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.inference.exporting import probabilities
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import protocol_for
from danet_jax.modes.arguments import find_network, read_size
from danet_jax.recipe import Recipe
from danet_jax.runs.files import is_bucket
from danet_jax.runs.terminal import shown
from danet_jax.weights.checkpoint import load_checkpoint
from danet_jax.weights.export_files import export_safetensors, export_torch
from danet_jax.weights.export_onnx import export_onnx
from danet_jax.weights.export_stablehlo import export_stablehlo

FORMATS = {"safetensors": ".safetensors", "torch": ".pth", "stablehlo": ".stablehlo.zip", "onnx": ".onnx"}
"""The suffix of the files of each format."""


def run(
    recipe: Recipe | None,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    format: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Writes `workdir/export/model.SUFFIX` for the run, or for `checkpoint`, and checks it by reading it back.

    An argument HEIGHTxWIDTH is the image size. ONNX files are for a single size, by default 512x512. StableHLO files
    are for images of any size unless a size is given.
    """
    if format not in FORMATS:
        problem = f"--format={format} does not exist" if format else "--mode=export needs --format=NAME"
        raise InputError(
            f"{problem}; there are: {', '.join(FORMATS)}",
            what="--format",
            value=format or None,
            allowed=tuple(FORMATS),
        )
    size = read_size(arguments, "export")
    if size and format in ("safetensors", "torch"):
        raise InputError(
            f"{arguments[0]}: --format={format} takes no size, because it contains only weights",
            what=arguments[0],
        )
    loaded = load_checkpoint(find_network(workdir, checkpoint), **(overrides or {}))
    loaded.refuse_backbone(checkpoint or workdir)
    path = workdir / "export" / f"model{FORMATS[format]}"
    of_run = protocol_for(loaded, recipe.protocol() if recipe else None)
    exported, metadata = of_run, {"protocol": json.dumps(of_run.as_dict())}
    if format in ("stablehlo", "onnx") and of_run.window is not None:
        exported = Protocol.whole().replace(mean=of_run.mean, std=of_run.std)
        exported = dataclasses.replace(exported, bits=of_run.bits)
        metadata = {"protocol": json.dumps(exported.as_dict()), "protocol_of_run": metadata["protocol"]}
    apply = functools.partial(probabilities, exported)
    with shown(f"exporting {path}"):
        if format == "safetensors":
            export_safetensors(loaded, path, metadata)
        elif format == "torch":
            export_torch(loaded, path)
        elif format == "stablehlo":
            export_stablehlo(loaded, path, size, apply, metadata)
        else:
            export_onnx(loaded, path, size or (512, 512), apply, metadata)
    print(loaded.description)
    if exported is not of_run:
        print(f"exported for whole images, because the run's own protocol, {of_run.name}, uses windows")
    elif format in ("stablehlo", "onnx"):
        print(f"exported with the protocol {exported.name}, as in --mode=predict")
    if format == "onnx" and loaded.network.dtype != jnp.float32:
        print("exported in float32, which ONNX runtimes support on every device")
    stat: Any = path.stat()
    size = stat.length if is_bucket(path) else stat.st_size
    print(f"{path}: {size / 1e6:.1f} MB, verified by reading it back")
    return 0
