"""Exports the inference function as a StableHLO program together with its weights. JAX is all that is needed to run it.

    import jax, zipfile
    from safetensors.numpy import load
    with zipfile.ZipFile("model.stablehlo.zip") as file:
        program = jax.export.deserialize(bytearray(file.read("program")))
        weights = load(file.read("weights.safetensors"))
    probabilities = program.call(weights, images)  # uint8 [B, H, W, 3] RGB -> float32 [B, H, W, num_classes]

Images are uint16 in the range 0 to 2**bits - 1 if the network was trained on more than 8 bits per channel; the
description in the metadata of the weights contains the number of bits.

The program is lowered for CPU, CUDA and TPU at once. The weights are arguments of the program, because compiling them
as constants takes long and makes the CPU compiler of JAX 0.10.2 crash in attention.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import export

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.ops.normalize import normalize
from danet_jax.runs.files import replacing
from danet_jax.weights.checkpoint import Checkpoint
from danet_jax.weights.description import KEY
from danet_jax.weights.export_files import description, flat

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest allowed difference of probabilities between an exported program and the network, by the network's dtype.

In bfloat16 they round differently on CPUs, where `ops.convolution` computes in float32, except in an exported program,
whose batch size is symbolic. Both are equally close to the network in float32.
"""

Size = tuple[int, int]


Apply = Callable[[DANet, Mapping[str, Any], jax.Array], jax.Array]
"""The type of an exported function: maps a network, its variables and images `[B, H, W, 3]` to float32 `[B, H, W, K]`.
"""


def whole_image(model: DANet, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Returns the class probabilities of images, float32 `[B, H, W, num_classes]`, computed at the images' own size."""
    logits: Any = model.apply(variables, normalize(images))
    return jax.nn.softmax(logits.fusion, axis=-1)


def by_path(apply: Apply, model: DANet) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """Returns a function that takes a network's weights by path and images, and calls `apply`."""
    return lambda weights, images: apply(model, unflatten_dict(dict(weights), sep="/"), images)


def pixel_type(checkpoint: Checkpoint) -> Any:
    """Returns the dtype of the images that a network takes: uint8, or uint16 for more than 8 bits per channel."""
    return jnp.uint8 if checkpoint.bits == 8 else jnp.uint16


def export_for_all_platforms(
    function: Callable[..., Any], weights: Any, size: Size | None, dtype: Any
) -> export.Exported:
    """Exports a function of `weights` and a batch of images for all platforms.

    Args:
      function: the function to export.
      weights: a tree of arrays with the shapes and dtypes of the weights.
      size: height and width of the images in pixels; None exports for any size. The batch size is always symbolic.
      dtype: the dtype of the images.
    """
    shape = f"batch, {size[0]}, {size[1]}, 3" if size else "batch, height, width, 3"
    constraints = [] if size else ["height >= 1", "width >= 1"]
    images = jax.ShapeDtypeStruct(export.symbolic_shape(shape, constraints=constraints), dtype)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), weights)
    return export.export(jax.jit(function), platforms=PLATFORMS)(shapes, images)


def export_stablehlo(
    checkpoint: Checkpoint,
    path: Path,
    size: Size | None = None,
    apply: Apply = whole_image,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a zip archive with the program and the weights, and verifies it by running what is read back.

    Args:
      checkpoint: a complete network.
      path: the path of the archive.
      size: height and width of the images in pixels; None exports for any size. The batch size is always symbolic, so
        attention uses plain operations: the kernels of TPUs and GPUs need a fixed batch size.
      apply: the function to export.
      metadata: further metadata of the weights.

    Raises:
      InputError: `flatbuffers`, which serialisation needs, is not installed, or the result differs from the network's.
    """
    from safetensors.numpy import load, save

    try:
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(
            "--format=stablehlo needs flatbuffers: pip install flatbuffers", what="--format=stablehlo"
        ) from None
    weights = flat(checkpoint.variables)
    exported = export_for_all_platforms(
        by_path(apply, checkpoint.network), weights, size, pixel_type(checkpoint)
    )
    with replacing(path) as partial:
        with zipfile.ZipFile(partial, "w") as file:
            file.writestr("program", bytes(exported.serialize()))
            described = {KEY: description(checkpoint), **(metadata or {})}
            file.writestr("weights.safetensors", save(weights, described))
        with zipfile.ZipFile(partial) as file:
            program = export.deserialize(bytearray(file.read("program")))
            stored = load(file.read("weights.safetensors"))
        check_program(
            checkpoint,
            lambda images: program.call(stored, images),
            [size] if size else [(65, 97), (48, 40)],
            path,
            apply,
        )


def check_program(
    checkpoint: Checkpoint, run: Callable[[np.ndarray], Any], sizes: list[Size], path: Path, apply: Apply
) -> None:
    """Raises InputError unless `run` returns the same probabilities as `apply`, for batches of one and two images."""
    expected_of = jax.jit(by_path(apply, checkpoint.network))
    weights = flat(checkpoint.variables)
    tolerance = TOLERANCE[jnp.dtype(checkpoint.network.dtype).name]
    rng = np.random.default_rng(0)
    for batch, size in enumerate(sizes + sizes[:1] * (len(sizes) == 1), start=1):
        images = rng.integers(0, 2**checkpoint.bits, (batch, *size, 3), pixel_type(checkpoint))
        expected, found = np.asarray(expected_of(weights, images)), np.asarray(run(images))
        difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if not difference <= tolerance:
            raise InputError(
                f"{path}: its probabilities differ from the network's by {difference:.2g}, so it is not kept",
                what=str(path),
                value=difference,
            )
