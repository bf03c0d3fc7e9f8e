"""A few cycles of benchmarks/soak.py: a run that is interrupted in every way ends as one that is not."""

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, rng, capfd):
    right = soak(tmp_path, cycles=3, steps=30, seed=int(rng.integers(2**31)))
    assert right, capfd.readouterr().out
