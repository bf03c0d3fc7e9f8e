import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.training.program import collectives, count_flops, read_program, widest_window
from tests.conftest import SHARED


def compiled_sum_over_devices(rows, columns):
    """A program of 8 devices that adds up their rows: one all-reduce of `columns` float32."""
    mesh = Mesh(np.asarray(jax.devices("cpu")[:8]), ("data",))
    x = jax.ShapeDtypeStruct(
        (8 * rows, columns), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    return jax.jit(lambda x: jnp.sum(x, axis=0)).lower(x).compile()


def test_memory_of_a_program_is_that_of_its_arrays(rng):
    rows, columns = (int(n) for n in rng.integers(3, 50, 2))
    program = read_program(compiled_sum_over_devices(rows, columns))
    assert program.arguments == 4 * rows * columns
    assert program.output == 4 * columns
    assert program.total == program.arguments + program.output + program.scratch


def test_exchange_between_devices_is_counted_by_kind(rng):
    columns = int(rng.integers(3, 50))
    program = read_program(compiled_sum_over_devices(3, columns))
    assert program.collectives == {"all-reduce": 2 * 4 * columns}  # read and written
    assert program.traffic >= sum(program.collectives.values()) + program.arguments


def test_what_is_given_to_the_result_counts_once():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    program = read_program(jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile())
    assert (program.arguments, program.output) == (4000, 0)


def test_operations_are_the_compilers_count(rng):
    m, n, k = (int(n) for n in rng.integers(2, 100, 3))
    shapes = jax.ShapeDtypeStruct((m, k), jnp.float32), jax.ShapeDtypeStruct((k, n), jnp.float32)
    assert count_flops(jax.jit(jnp.dot).lower(*shapes)) == 2 * m * n * k


def test_exchange_inside_what_a_fusion_calls_is_found():
    text = """HloModule step

%fused (p: f32[10]) -> f32[10] {
  %p = f32[10]{0} parameter(0)
  ROOT %r = f32[10]{0} all-reduce(%p), to_apply=%add
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %x = f32[10]{0:T(256)} parameter(0)
  %permuted = f32[10]{0:T(256)} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %out = f32[10]{0:T(256)} fusion(%permuted), kind=kCustom, calls=%fused
}
"""
    assert collectives(text) == {"collective-permute": 80, "all-reduce": 80}


def test_the_widest_window_is_looked_for_in_cudnn_calls_too():
    text = """HloModule step

ENTRY %main (x: bf16[2,96,96,8]) -> bf16[2,96,96,8] {
  %y = bf16[2,96,96,8] custom-call(%x, %k), window={size=3x3 pad=2_2x2_2}, custom_call_target="__cudnn$convForward"
  %z = bf16[3,3,8,8] custom-call(%x, %y), window={size=96x48 stride=2x2}, custom_call_target="__cudnn$convForward"
}
"""
    assert widest_window(text) == 96
    assert widest_window(text.replace("96x48 stride", "5x4 stride")) == 5
    assert widest_window("ENTRY %main () -> f32[] {\n}") == 0


def test_traffic_agrees_with_the_tool_that_figures_were_first_taken_with():
    path = SHARED / "tools/program_traffic.py"
    if not path.exists():
        pytest.skip(f"needs {path.name}, looked for in {path.parent}")
    spec = importlib.util.spec_from_file_location("program_traffic", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    compiled = compiled_sum_over_devices(5, 7)
    expected = sum(moved for moved, *_ in tool.instructions(compiled.as_text()))
    assert read_program(compiled).traffic == expected
