"""The trace of some steps of a training."""

import json
import subprocess
import sys

# In a process of its own: where a compiler for TPUs was loaded before, the profiler asks it for a device and crashes.
PROGRAM = """
import json, sys
import jax
import jax.numpy as jnp
from danet_jax.runs.pace import Profile

step = jax.jit(lambda x: x @ x)
for folder, (steps, until) in json.loads(sys.argv[1]).items():
    result = jnp.ones((64, 64))
    with Profile(folder, tuple(steps)) as profile:
        for number in range(1, until + 1):
            profile.before(number)
            result = step(result)
            profile.after(number, result)
"""
CASES = {
    "some": ((2, 3), 5),
    "end not reached": ((2, 100), 3),
    "none": ((), 3),
    "beginning not reached": ((5, 6), 3),
}


def test_profile_traces_the_given_steps(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(CASES)], cwd=tmp_path, check=True)
    traces = list(tmp_path.glob("*/plugins/profile/*/*.xplane.pb"))
    assert all(trace.stat().st_size for trace in traces)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"some", "end not reached"}
    assert len(traces) == 2
