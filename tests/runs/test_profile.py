import subprocess
import sys

import pytest

# In processes of their own: where a compiler for TPUs was loaded before, the profiler asks it for a device and crashes.
GO = """
import sys
import jax
import jax.numpy as jnp
from danet_jax.runs.pace import Profile

folder, steps, until = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3])
step = jax.jit(lambda x: x @ x)
result = jnp.ones((64, 64))
with Profile(folder, steps) as profile:
    for number in range(1, until + 1):
        profile.before(number)
        result = step(result)
        profile.after(number, result)
"""


def traces(folder, steps, until):
    subprocess.run([sys.executable, "-c", GO, str(folder), str(steps), str(until)], check=True)
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_steps_that_are_named_are_traced(tmp_path):
    [trace] = traces(tmp_path, (2, 3), 5)
    assert trace.stat().st_size > 0


def test_a_trace_whose_end_is_not_reached_is_written_all_the_same(tmp_path):
    assert traces(tmp_path, (2, 100), 3)


@pytest.mark.parametrize("steps", [(), (5, 6)])
def test_none_is_written_without_steps_or_before_them(tmp_path, steps):
    assert not traces(tmp_path, steps, 3)
    assert not list(tmp_path.iterdir())
