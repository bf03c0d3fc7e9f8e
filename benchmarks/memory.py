"""Reports the memory of a training step on one TPU v5e chip (16 GiB), compiled without one, by attention backend.

    pip install libtpu
    JAX_PLATFORMS=cpu python -m benchmarks.memory [--backbone resnet101] [--size 768] [--batch 1 2 4]

The step is that of training: forward pass, loss, gradients, and SGD with momentum; the state is donated. `total` is the
peak memory of the chip: arguments, results that do not overwrite them, and scratch memory. A step that does not fit is
reported with the memory that it would need according to the compiler.
"""

from __future__ import annotations

import argparse
import os
import re

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from danet_jax import DANet
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step


def memory(backend: str, options: argparse.Namespace, dtype: str, batch: int) -> str:
    """Returns table cells: the GiB of arguments, of scratch memory and in total, or the compiler's error."""
    model = DANet(
        19, backbone=options.backbone, multi_grid=(4, 8, 16), dtype=dtype, attention_backend=backend
    )
    optimizer = sgd(poly_schedule(0.01, 1000))
    state = jax.eval_shape(lambda: create_state(model, optimizer, 0, make_mesh(devices=jax.devices()[:1])))
    chip = SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", "tpu").devices[0])
    shape = batch, options.size, options.size
    examples = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip), (state, examples)
    )
    try:
        compiled = make_train_step(model, optimizer).lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+[GM]) of ([\d.]+[GM]) hbm", str(error))
        if used is None:
            raise
        return f"- | - | does not fit: {used[1]} of {used[2]}"
    sizes = compiled.memory_analysis()
    kept = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    total = sizes.argument_size_in_bytes + kept + sizes.temp_size_in_bytes
    return " | ".join(
        f"{x / 2**30:.2f}" for x in (sizes.argument_size_in_bytes, sizes.temp_size_in_bytes, total)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--backends", nargs="+", default=["splash", "blockwise", "reference"])
    options = parser.parse_args()
    print(
        f"DANet {options.backbone}, {options.size}x{options.size}, one training step on one TPU v5e chip, GiB\n"
    )
    print("| dtype | batch | backend | arguments | scratch | total |")
    print("|---|---|---|---|---|---|")
    for dtype in options.dtype:
        for batch in options.batch:
            for backend in options.backends:
                print(
                    f"| {dtype} | {batch} | {backend} | {memory(backend, options, dtype, batch)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
