"""Exports the inference function as an ONNX graph with jax2onnx, for any number of images of a fixed size."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from danet_jax.errors import InputError, first_line
from danet_jax.runs.files import replacing
from danet_jax.weights.checkpoint import Checkpoint
from danet_jax.weights.description import KEY
from danet_jax.weights.export_files import description, flat
from danet_jax.weights.export_stablehlo import Apply, Size, by_path, check_program, pixel_type, whole_image

# Calls in a jaxpr that can be inlined when no gradient is needed.
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def export_onnx(
    checkpoint: Checkpoint,
    path: Path,
    size: Size,
    apply: Apply = whole_image,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an ONNX graph that maps images to class probabilities.

    Its input is `images`, uint8 `[batch, H, W, 3]` RGB, or uint16 if the network takes more than 8 bits. Its output is
    `probabilities`, float32 `[batch, H, W, num_classes]`. The graph computes in float32, whatever the network's dtype.

    The file is run in onnxruntime and compared before it replaces `path`. Its metadata contain the description.

    Args:
      checkpoint: a complete network.
      path: the path of the file.
      size: height and width of the images in pixels.
      apply: the function to export.
      metadata: further metadata of the file.

    Raises:
      InputError: jax2onnx or onnxruntime is not installed or fails, or the result differs from the network's.
    """
    try:
        import jax2onnx
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError(
            f"--format=onnx needs {error.name}: pip install jax2onnx onnx onnxruntime", what="--format=onnx"
        ) from None
    # Position attention uses plain operations, because ONNX has no fused kernels for it. The graph computes in float32,
    # because onnxruntime supports most operations on CPUs in no other type that JAX has.
    model = checkpoint.network.clone(attention_backend="rows", dtype=jnp.float32)
    in_float32 = dataclasses.replace(checkpoint, model=model)
    weights, function = flat(checkpoint.variables), by_path(apply, model)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *size, 3), pixel_type(checkpoint))
    jaxpr = jax.make_jaxpr(lambda images: function(weights, images))(images)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # It warns about every constant without a type.
    with _in_one_line("jax2onnx", path):
        graph = jax2onnx.to_onnx(
            lambda images: _in_plain_operations(jaxpr.jaxpr, jaxpr.consts, images)[0],
            [images],
            model_name="DANet",
            input_names=["images"],
            output_names=["probabilities"],
        )
    onnx.helper.set_model_props(graph, {KEY: description(checkpoint), **(metadata or {})})
    with replacing(path) as partial, _in_one_line("onnxruntime", path):
        onnx.save(graph, partial)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(partial, options, providers=["CPUExecutionProvider"])
        check_program(
            in_float32, lambda images: session.run(None, {"images": images})[0], [size], path, apply
        )


@contextlib.contextmanager
def _in_one_line(library: str, path: Path) -> Iterator[None]:
    """Raises the errors of a library as InputError, except OSError, which `replacing` handles."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:
        raise InputError(
            f"{path}: {library} failed with this network: {first_line(error)}; use --format=stablehlo",
            what=str(path),
        ) from error


def _in_plain_operations(jaxpr: Any, constants: Any, *arguments: Any) -> list[Any]:
    """Evaluates a jaxpr with its calls inlined, and with max pooling computed as maxima of slices.

    jax2onnx 0.17 converts max pooling in NHWC to pooling over four dimensions, which onnxruntime does not support, and
    confuses layouts when it converts Flax functions instead of primitives.
    """
    from jax.extend.core import Literal

    values: dict[Any, Any] = {}

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    values.update(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        called = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.primitive.name in _CALLS:
            outputs = _in_plain_operations(called.jaxpr, called.consts, *inputs)
        elif equation.primitive.name == "reduce_window_max":
            outputs = [_max_pool(inputs[0], equation.params)]
        else:
            outputs = equation.primitive.bind(*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _max_pool(x: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Computes max pooling axis by axis. Padding by repeating the edge does not change the maximum of a window."""
    axes = zip(params["window_dimensions"], params["window_strides"], params["padding"], strict=True)
    for axis, (window, stride, (before, after)) in enumerate(axes):
        if window == 1:
            continue
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, x.shape[axis] - 1))
        x = lax.concatenate([*[first] * before, x, *[last] * after], axis)
        reach = (x.shape[axis] - window) // stride * stride + 1
        parts = [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]
        x = functools.reduce(lax.max, parts)
    return x
