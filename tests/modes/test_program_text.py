"""The reader of compiled programs agrees with programs whose traffic is known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.reference.program_text import collectives, traffic, widest_window


def compiled_sum_over_devices(rows, columns):
    """A program of 8 devices that adds up their rows: one all-reduce of `columns` float32."""
    mesh = Mesh(np.asarray(jax.devices("cpu")[:8]), ("data",))
    x = jax.ShapeDtypeStruct(
        (8 * rows, columns), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )
    return jax.jit(lambda x: jnp.sum(x, axis=0)).lower(x).compile()


def test_collectives_are_counted_by_kind(rng):
    columns = int(rng.integers(3, 50))
    text = compiled_sum_over_devices(3, columns).as_text()
    assert collectives(text) == {"all-reduce": 2 * 4 * columns}  # read and written
    assert traffic(text) >= 2 * 4 * columns + 4 * 3 * columns


def test_collectives_inside_fusions_are_counted():
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


def test_the_widest_window_includes_cudnn_calls():
    text = """HloModule step

ENTRY %main (x: bf16[2,96,96,8]) -> bf16[2,96,96,8] {
  %y = bf16[2,96,96,8] custom-call(%x, %k), window={size=3x3 pad=2_2x2_2}, custom_call_target="__cudnn$convForward"
  %z = bf16[3,3,8,8] custom-call(%x, %y), window={size=96x48 stride=2x2}, custom_call_target="__cudnn$convForward"
}
"""
    assert widest_window(text) == 96
    assert widest_window(text.replace("96x48 stride", "5x4 stride")) == 5
    assert widest_window("ENTRY %main () -> f32[] {\n}") == 0
