import jax
import jax.numpy as jnp

from danet_jax.runs.profile import Profile


def go(profile, steps):
    step = jax.jit(lambda x: x @ x)
    result = jnp.ones((64, 64))
    for number in range(1, steps + 1):
        profile.before(number)
        result = step(result)
        profile.after(number, result)


def traces(folder):
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_steps_that_are_named_are_traced(tmp_path):
    with Profile(tmp_path, (2, 3)) as profile:
        go(profile, 2)
        assert not traces(tmp_path)
        profile.before(3)
        profile.after(3, jnp.zeros(()))
        [trace] = traces(tmp_path)
    assert trace.stat().st_size > 0
    assert len(traces(tmp_path)) == 1


def test_a_trace_whose_end_is_not_reached_is_written_all_the_same(tmp_path):
    with Profile(tmp_path, (2, 100)) as profile:
        go(profile, 3)
    assert traces(tmp_path)


def test_none_is_written_without_steps_or_before_them(tmp_path):
    with Profile(tmp_path, ()) as profile:
        go(profile, 3)
    with Profile(tmp_path, (5, 6)) as profile:
        go(profile, 3)
    assert not list(tmp_path.iterdir())
