"""Where the attention modules start, and what that does to the map."""

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax import DANet
from danet_jax.ops.attention import row_statistics
from danet_jax.training.state import AttentionStart


def test_only_attention_starts_elsewhere_and_its_logits_spread_by_the_square(rng):
    model = DANet(3, backbone="resnet18", output_stride=16)
    images = jnp.asarray(rng.standard_normal((1, 96, 96, 3)), jnp.float32)
    variables = model.init(jax.random.key(int(rng.integers(2**31))), images)
    started = AttentionStart(query_key_gain=3.0, alpha=1.0, beta=0.5).apply(variables["params"])
    changed = jax.tree_util.tree_map_with_path(
        lambda path, a, b: None if np.array_equal(a, b) else jax.tree_util.keystr(path),
        variables["params"],
        started,
    )
    names = {path.split("['head']")[1] for path in jax.tree.leaves(changed)}
    query_and_key = [
        f"['position_attention']['{n}']['{p}']" for n in ("query", "key") for p in ("kernel", "bias")
    ]
    assert names == {"['position_attention']['alpha']", "['channel_attention']['beta']", *query_and_key}
    assert started["head"]["position_attention"]["alpha"] == 1
    assert started["head"]["channel_attention"]["beta"] == 0.5

    def spread(params):
        whole = {"params": params, "batch_stats": variables["batch_stats"]}
        _, seen = model.apply(whole, images, mutable=["intermediates"])
        seen = seen["intermediates"]["head"]["position_attention"]
        return row_statistics(seen["queries"][0], seen["keys"][0], rows=36)[0]

    np.testing.assert_allclose(spread(started), 9 * spread(variables["params"]), rtol=1e-3)
    same = AttentionStart().apply(variables["params"])
    jax.tree.map(np.testing.assert_array_equal, same, variables["params"])
