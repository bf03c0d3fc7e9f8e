"""Compares the time and scratch memory of position attention with the plain form and with PyTorch.

    python -m benchmarks.attention [--positions 1024 4096 9216] [--dtype bfloat16] [--repeats 5]

All forms run on the same device with the same numbers, in turns, so that other load affects all of them alike; the best
of the repeats counts. On a GPU, both PyTorch and JAX need CUDA. The forms are:

  ours             danet_jax.ops.position_attention with the backend "auto"
  plain            the same with the backend "reference": JAX's softmax of the whole map
  torch bmm        the authors' code: bmm, softmax, bmm
  torch sdpa       torch's scaled_dot_product_attention(scale=1)
  torch sdpa, 64s  the same with 64 channels of the values per head and repeated queries and keys, which its flash
                   kernel accepts; it computes the logits once per head

For JAX, scratch memory is what the compiler reserves in addition to arguments and results. For torch, it is the peak
growth of the process (CPU) or of the allocator (GPU), including the results. Forms whose maps would not fit into half
of the memory are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import seconds, torch_scratch

KEY_CHANNELS, VALUE_CHANNELS = 64, 512
TORCH_FORMS = ("torch bmm", "torch sdpa", "torch sdpa, 64s")
MAPS = {"plain": (1, 2), "torch bmm": (2, 4), "torch sdpa": (2, 4)}
"""The number of N x N maps that each form keeps at its peak, forward and with the gradient."""


def flops(positions: int, gradient: bool) -> float:
    """Returns the multiplications and additions of the matrix products, including those of recomputed logits."""
    forward = 2 * positions**2 * (KEY_CHANNELS + VALUE_CHANNELS)
    return forward + 2 * positions**2 * (3 * KEY_CHANNELS + 2 * VALUE_CHANNELS) if gradient else forward


def inputs(positions: int) -> list[Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    channels = KEY_CHANNELS, KEY_CHANNELS, VALUE_CHANNELS, VALUE_CHANNELS
    return [0.5 * rng.standard_normal((1, positions, c), np.float32) for c in channels]


def jax_form(backend: str, positions: int, dtype: str, gradient: bool) -> tuple[Callable[[], None], float]:
    """Returns a function that runs the form and waits for the result, and its scratch memory in MiB."""
    import jax
    import jax.numpy as jnp

    from danet_jax.ops.attention import position_attention

    def forward(query: Any, key: Any, value: Any, _: Any) -> Any:
        return position_attention(query, key, value, backend=backend)

    def with_gradient(query: Any, key: Any, value: Any, cotangent: Any) -> Any:
        output, vjp = jax.vjp(lambda *x: forward(*x, None), query, key, value)
        return output, vjp(cotangent)

    arrays = [jnp.asarray(x, dtype) for x in inputs(positions)]
    compiled = jax.jit(with_gradient if gradient else forward).lower(*arrays).compile()
    scratch = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(compiled(*arrays)), scratch


def torch_form(form: str, positions: int, dtype: str, gradient: bool) -> Callable[[], None]:
    import torch
    import torch.nn.functional as functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    *arrays, cotangent = (torch.tensor(x).to(device, getattr(torch, dtype)) for x in inputs(positions))
    if form == "torch bmm":  # the authors' layout has channels before positions
        arrays = [x.transpose(1, 2).contiguous() for x in arrays]
        cotangent = cotangent.transpose(1, 2).contiguous()

    def attention(query: Any, key: Any, value: Any) -> Any:
        if form == "torch bmm":
            weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
            return torch.bmm(value, weights.transpose(1, 2))
        heads = VALUE_CHANNELS // 64 if "64" in form else 1
        query, key = (x[:, None].expand(-1, heads, -1, -1) for x in (query, key))
        value = value.unflatten(2, (heads, -1)).transpose(1, 2)
        output = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        return output.transpose(1, 2).flatten(2)

    def run() -> None:
        if gradient:
            leaves = [x.detach().requires_grad_() for x in arrays]
            attention(*leaves).backward(cotangent)
        else:
            with torch.no_grad():
                attention(*arrays)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def matmul_rates(dtype: str) -> str:
    """Returns the rates that both libraries reach for a large square matrix product."""
    import jax
    import jax.numpy as jnp
    import torch

    size = 2048 if jax.default_backend() == "cpu" else 8192
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = jnp.ones((size, size), dtype)
    theirs = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    multiply = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))

    def torch_multiply() -> None:
        theirs @ theirs
        if device == "cuda":
            torch.cuda.synchronize()

    best = seconds({"jax": lambda: multiply(ours).block_until_ready(), "torch": torch_multiply}, 10)
    rates = {name: 2 * size**3 / time / 1e9 for name, time in best.items()}
    return f"matrix product {size}^3: jax {rates['jax']:.0f}, torch {rates['torch']:.0f} GFLOP/s"


def memory() -> float:
    """Returns the memory of the device that JAX uses, in MiB."""
    import jax

    statistics = jax.devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] / 2**20
    with open("/proc/meminfo") as file:
        return int(file.readline().split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--positions", type=int, nargs="+", default=[1024, 4096, 9216, 16384, 32768], help="N"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=["ours", "plain", *TORCH_FORMS])
    options = parser.parse_args()
    import jax

    print(f"{jax.devices()[0].device_kind}, {options.dtype}, {matmul_rates(options.dtype)}\n")
    print("| N | form | forward s | with gradient s | GFLOP/s | scratch MiB | with gradient MiB |")
    print("|---|---|---|---|---|---|---|")
    for positions in options.positions:
        times: list[dict[str, float]] = []
        scratch: list[dict[str, float]] = []
        for gradient in (False, True):
            runs: dict[str, Callable[[], None]] = {}
            megabytes: dict[str, float] = {}
            for form in options.forms:
                maps = MAPS.get(form, (0, 0))[gradient]
                if maps * positions**2 * 4 / 2**20 > memory() / 2:
                    continue
                if form in TORCH_FORMS:
                    runs[form] = torch_form(form, positions, options.dtype, gradient)
                    megabytes[form] = torch_scratch(torch_form, form, positions, options.dtype, gradient)
                else:
                    backend = "auto" if form == "ours" else "reference"
                    runs[form], megabytes[form] = jax_form(backend, positions, options.dtype, gradient)
            times.append(seconds(runs, options.repeats if positions < 16384 else 1))
            scratch.append(megabytes)
        for form in options.forms:

            def cell(table: dict[str, float], digits: int, form: str = form) -> str:
                return f"{table[form]:.{digits}f}" if form in table else "-"

            rate = "-"
            if form in times[1]:
                rate = f"{flops(positions, True) / times[1][form] / 1e9:.0f}"
            row = [cell(times[0], 4), cell(times[1], 4), rate, cell(scratch[0], 1), cell(scratch[1], 1)]
            print(f"| {positions} | {form} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
