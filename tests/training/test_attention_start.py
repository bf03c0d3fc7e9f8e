"""Initial values of the attention modules, and their effect on the attention map."""

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax import DANet
from danet_jax.models.intermediates import apply_with_intermediates
from danet_jax.ops.attention import row_statistics
from danet_jax.training.state import AttentionStart
from tests.reference.tiny_backbone import TinyBackbone, drawn_variables


def test_only_attention_is_changed_and_its_logits_are_scaled_by_the_squared_gain(rng):
    model = DANet(3, backbone=TinyBackbone())
    variables = drawn_variables(rng, model)
    scales = {"position_attention": {"alpha": 0.0}, "channel_attention": {"beta": 0.0}}
    head = variables["params"]["head"]
    for name, scale in scales.items():
        head[name] |= {key: jnp.float32(value) for key, value in scale.items()}
    params = variables["params"]
    started = AttentionStart(query_key_gain=3.0, alpha=1.0, beta=0.5).apply(params)
    changed = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (
            None if np.array_equal(a, b) else jax.tree_util.keystr(path, simple=True, separator="/")
        ),
        params,
        started,
    )
    query_and_key = [f"head/position_attention/{n}/{p}" for n in ("query", "key") for p in ("kernel", "bias")]
    assert set(jax.tree.leaves(changed)) == {
        "head/position_attention/alpha",
        "head/channel_attention/beta",
        *query_and_key,
    }
    assert started["head"]["position_attention"]["alpha"] == 1
    assert started["head"]["channel_attention"]["beta"] == 0.5

    @jax.jit
    def spread(params):
        images = jnp.asarray(rng.standard_normal((1, 24, 24, 3)), jnp.float32)
        intermediates = apply_with_intermediates(model, {**variables, "params": params}, images)
        return row_statistics(intermediates.queries, intermediates.keys, rows=36)[0]

    np.testing.assert_allclose(spread(started), 9 * spread(params), rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, AttentionStart().apply(params), params)
