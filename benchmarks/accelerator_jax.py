"""The danet_jax part of benchmarks/accelerator.py."""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks import accelerator_cases as cases
from benchmarks.accelerator_cases import FULL, TINY, Worker, relative_error, tree_error
from danet_jax import DANet, normalize, position_attention
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter
from danet_jax.models.danet import Logits
from danet_jax.ops.convolution import convolution
from danet_jax.training.losses import multi_loss, valid_pixels
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step
from danet_jax.weights.convert import convert


def compiled(programs: dict[Any, tuple[Callable[..., Any], tuple[Any, ...]]]) -> dict[Any, Any]:
    """Compiles all programs at the same time; returns each, or the reason why there is none, by name."""

    def one(program: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
        function, arguments = program
        try:
            return jax.jit(function).lower(*arguments).compile()
        except Exception as error:
            return error

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(programs, pool.map(one, programs.values()), strict=True))


def scratch_gib(program: Any) -> float:
    return program.memory_analysis().temp_size_in_bytes / 2**30


# Convolutions.


def direct(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Computes XLA's own dilated convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((dilation, dilation),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def in_phases(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Computes an ordinary convolution of each phase, also in the gradients; the dilation must divide the sides."""
    batch, height, width, _ = x.shape
    rows, columns = height // dilation, width // dilation
    x = x.reshape(batch, rows, dilation, columns, dilation, -1).transpose(0, 2, 4, 1, 3, 5)
    y = direct(x.reshape(-1, rows, columns, x.shape[-1]), kernel, 1)
    y = y.reshape(batch, dilation, dilation, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(batch, height, width, -1)


def ours(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return convolution(x, kernel, padding=dilation, dilation=dilation)


def jax_convolution(worker: Worker) -> None:
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in cases.convolution_inputs(worker.sizes)]
    programs: dict[Any, Any] = {}
    for dilation in worker.sizes.dilations:
        for form in (ours, direct, in_phases):
            if form is not ours and dilation == 1:
                continue
            apply = functools.partial(form, dilation=dilation)

            def input_gradient(x: Any, kernel: Any, dy: Any, apply: Any = apply) -> Any:
                return jax.vjp(lambda x: apply(x, kernel), x)[1](dy)[0]

            def kernel_gradient(x: Any, kernel: Any, dy: Any, apply: Any = apply) -> Any:
                return jax.vjp(lambda kernel: apply(x, kernel), kernel)[1](dy)[0]

            key = dilation, form.__name__
            programs[*key, "forward"] = apply, arrays[:2]
            programs[*key, "input_gradient"] = input_gradient, arrays
            programs[*key, "kernel_gradient"] = kernel_gradient, arrays
    ready = compiled(programs)
    worker.ready()
    for dilation, form in dict.fromkeys(key[:2] for key in programs):
        expected = worker.load(f"convolution_{dilation}")
        row: dict[str, Any] = {}
        for name in ("forward", "input_gradient", "kernel_gradient"):
            program, arguments = ready[dilation, form, name], programs[dilation, form, name][1]
            if isinstance(program, Exception):
                row[f"{name}_failed"] = str(program)[:200]
                continue
            result = program(*arguments)
            found = np.asarray(result if name == "kernel_gradient" else result[:1], np.float32)
            row[f"{name}_error"] = relative_error(found, expected[name])
            row[f"{name}_ms"] = 1e3 * worker.seconds(
                functools.partial(program, *arguments), jax.block_until_ready
            )
        label = {"ours": "danet_jax", "in_phases": "XLA in phases", "direct": "XLA direct"}[form]
        worker.row(dilation=dilation, form=label, **row)


# Position attention.


def jax_attention(worker: Worker) -> None:
    programs: dict[Any, Any] = {}
    for batch, positions in worker.sizes.attention:
        shapes = [
            jax.ShapeDtypeStruct((batch, positions, c), jnp.bfloat16)
            for c in (*[cases.KEY_CHANNELS] * 2, *[cases.VALUE_CHANNELS] * 2)
        ]
        for backend in ("auto", "blockwise", "reference"):
            if backend == "reference" and batch * positions**2 > 1 << 30:
                continue
            forward = functools.partial(position_attention, backend=backend)

            def with_gradient(query: Any, key: Any, value: Any, dy: Any, forward: Any = forward) -> Any:
                output, vjp = jax.vjp(forward, query, key, value)
                return output, *vjp(dy)

            programs[batch, positions, backend, "forward"] = forward, tuple(shapes[:3])
            programs[batch, positions, backend, "gradient"] = with_gradient, tuple(shapes)
    ready = compiled(programs)
    worker.ready()
    for batch, positions, backend in dict.fromkeys(key[:3] for key in programs):
        expected = worker.load(f"attention_{positions}")
        arrays = [jnp.asarray(x, jnp.bfloat16) for x in cases.attention_inputs(batch, positions)]
        row: dict[str, Any] = {}
        for name, arguments in (("forward", arrays[:3]), ("gradient", arrays)):
            program = ready[batch, positions, backend, name]
            if isinstance(program, Exception):
                row[f"{name}_failed"] = str(program)[:200]
                continue
            results = program(*arguments)
            if name == "gradient":
                found = {
                    k: np.asarray(x[0], np.float32)
                    for k, x in zip(("output", "query", "key", "value"), results, strict=True)
                }
                row["error"] = relative_error(found.pop("output"), expected["output"])
                row["gradient_error"] = tree_error(found, {k: expected[k] for k in found})
            row[f"{name}_scratch_gib"] = scratch_gib(program)
            row[f"{name}_ms"] = 1e3 * worker.seconds(
                functools.partial(program, *arguments), jax.block_until_ready
            )
        worker.row(batch=batch, positions=positions, form=f"danet_jax {backend}", **row)


# The network.


def network(worker: Worker, backbone: str) -> tuple[DANet, dict[str, Any], dict[str, np.ndarray]]:
    """Returns the model in bfloat16, variables that torch initialized, and their state dict."""
    state_dict = worker.load(f"weights_{backbone}")
    variables = convert(state_dict).variables
    model = DANet(cases.CLASSES, backbone, multi_grid=cases.MULTI_GRID, dropout_rate=0.0, dtype=jnp.bfloat16)
    return model, variables, state_dict


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(tree)}


def jax_step(worker: Worker, backbone: str) -> None:
    model, variables, state_dict = network(worker, backbone)
    optimizer = sgd(poly_schedule(1e-9, 1000), weight_decay=0.0)  # the first trace is the gradient
    mesh = make_mesh(devices=jax.devices()[:1])
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, 0, mesh))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    step = make_train_step(model, optimizer)

    def fresh() -> Any:
        return jax.device_put(zeros.replace(**variables))

    programs = {}
    state = fresh()
    with ThreadPoolExecutor() as pool:
        for batch in worker.sizes.batches:
            images, labels = cases.step_inputs(worker.sizes, batch)
            arguments = {"image": images, "label": labels.astype(np.uint8)}
            lowered = step.lower(state, arguments)
            programs[batch] = arguments, pool.submit(lowered.compile)
    del state
    expected = worker.load(f"step_{backbone}")
    loss = expected.pop("loss")
    gradients = flat(convert(state_dict | expected).variables["params"])
    worker.ready()
    for batch, (arguments, program) in programs.items():
        program, arguments = program.result(), jax.device_put(arguments)
        holder = [fresh()]

        def run(program: Any = program, arguments: Any = arguments, holder: Any = holder) -> Any:
            holder[0], metrics = program(holder[0], arguments)
            return metrics["loss"]

        row: dict[str, Any] = {"loss_error": relative_error(run(), loss)}
        row["gradient_error"] = tree_error(flat(optax.tree.get(holder[0].opt_state, "trace")), gradients)
        time = worker.seconds(run, jax.block_until_ready)
        memory = jax.devices()[0].memory_stats() or {}
        row |= {
            "images_per_second": batch / time,
            "step_ms": 1e3 * time,
            "peak_gib": memory.get("peak_bytes_in_use", 0) / 2**30,
            "scratch_gib": scratch_gib(program),
        }
        worker.row(batch=batch, form="danet_jax", **row)
        holder.clear()


def jax_predict(worker: Worker, backbone: str) -> None:
    model, variables, _ = network(worker, backbone)
    image = cases.test_image(worker.sizes)
    segmenter = Segmenter(model, variables, Protocol.whole())

    def apply(variables: Any, images: Any) -> jax.Array:
        return model.apply(variables, normalize(images), upsample=False).fusion

    [program] = compiled({"network": (apply, (segmenter.variables, image))}).values()
    segmenter(image)
    worker.ready()
    expected = worker.load("predict")
    labels, time = segmenter(image), worker.seconds(lambda: segmenter(image), lambda labels: labels)
    differing = float(np.mean(labels != expected["labels"]))
    worker.row(form="danet_jax Segmenter", labels_differing=differing, image_ms=1e3 * time)
    images = jax.device_put(image)
    worker.row(
        form="danet_jax network",
        error=relative_error(program(segmenter.variables, images), expected["logits"]),
        image_ms=1e3 * worker.seconds(lambda: program(segmenter.variables, images), jax.block_until_ready),
        scratch_gib=scratch_gib(program),
    )


# The loss.


def jax_loss(worker: Worker) -> None:
    logits, labels = cases.loss_inputs(worker.sizes)

    def loss(logits: Any, labels: Any) -> jax.Array:
        return multi_loss(Logits(*logits), labels, valid_pixels(labels), align_corners=True)[0]

    arrays = [jnp.asarray(x) for x in logits], jnp.asarray(labels.astype(np.uint8))
    [program] = compiled({"loss": (jax.value_and_grad(loss), arrays)}).values()
    worker.ready()
    expected = worker.load("loss")
    total, gradients = program(*arrays)
    worker.row(
        form="danet_jax",
        loss_error=relative_error(total, expected["loss"]),
        gradient_error=relative_error(np.stack(gradients), expected["gradients"]),
        scratch_gib=scratch_gib(program),
        gradient_ms=1e3 * worker.seconds(lambda: program(*arrays), jax.block_until_ready),
    )


# A training run.


def jax_camvid(worker: Worker, steps: str, root: str = "", weights: str = "") -> None:
    """Runs `run.py` on CamVid (or, without it, on synthetic scenes), then its evaluation in float32 on the CPU."""
    sizes, workdir = worker.sizes, worker.folder / "camvid_run"
    flags = [f"--config=configs/{'camvid' if root else 'quickstart'}.py"]
    flags += [f"--workdir={workdir}", f"--config.dataset.data_dir={worker.folder / 'data'}"]
    if not root:
        flags += ["--config.dataset.options.train=8", "--config.dataset.options.val=4"]
    else:
        flags += [f"--config.dataset.root={root}", f"--config.dataset.workers={min(12, os.cpu_count() or 1)}"]
    if weights:
        flags += [f"--config.init.checkpoint={weights}"]
    training = [
        f"--config.training.steps={steps}",
        f"--config.training.batch_size={sizes.camvid_batch}",
        f"--config.dataset.crop_size={sizes.camvid_crop}",
        f"--config.training.evaluate_every={steps}",
        "--config.mesh.data=1",
        "--config.model.dtype=bfloat16",
    ]
    worker.ready()
    start = time.perf_counter()
    call("run.py", *flags, *training)
    elapsed = time.perf_counter() - start
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    miou = [line["validation/miou"] for line in lines if "validation/miou" in line][-1]
    rates = [line["train/images_per_second"] for line in lines if "train/images_per_second" in line]
    row = {"seconds": elapsed, "steps": int(steps), "batch": sizes.camvid_batch, "miou": miou}
    call("run.py", *flags, "--mode=evaluate", "--config.model.dtype=float32", on_cpu=True)
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    # A network that has learnt next to nothing may label no pixel correctly.
    row["miou_error"] = abs(evaluation["miou"] - miou) / max(evaluation["miou"], 1e-9)
    worker.row(form="danet_jax", images_per_second=float(np.median(rates)), **row)
    shutil.rmtree(workdir)


def call(*command: str, on_cpu: bool = False) -> None:
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if on_cpu else {})
    result = subprocess.run([sys.executable, *command], env=environment, stdout=sys.stderr, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {result.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("function", help="one of the above")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--folder", type=Path, help="where the processes exchange arrays")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    worker = Worker(options.folder, TINY if options.tiny else FULL)
    globals()[options.function](worker, *options.arguments)


if __name__ == "__main__":
    main()
