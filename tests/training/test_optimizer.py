"""SGD and its schedule against torch's."""

import jax
import numpy as np
import optax
import torch

from danet_jax.training.optimizer import poly_schedule, sgd


def test_twenty_steps_equal_torch_with_two_parameter_groups(rng):
    steps, learning_rate = 20, 0.1
    initial = {"backbone": {"w": rng.standard_normal((3, 4))}, "head": {"alpha": rng.standard_normal(())}}
    gradients = [jax.tree.map(lambda x: rng.standard_normal(x.shape), initial) for _ in range(steps)]

    weights = torch.tensor(initial["backbone"]["w"], requires_grad=True)
    alpha = torch.tensor(initial["head"]["alpha"], requires_grad=True)
    reference = torch.optim.SGD(
        [{"params": [weights]}, {"params": [alpha], "lr": 10 * learning_rate}],
        lr=learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
    )
    params = jax.tree.map(np.float32, initial)
    optimizer = sgd(
        poly_schedule(learning_rate, steps), momentum=0.9, weight_decay=1e-4, head_multiplier=10.0
    )
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step, gradient in enumerate(gradients):
        for group, multiplier in zip(reference.param_groups, (1, 10), strict=True):
            group["lr"] = multiplier * learning_rate * (1 - step / steps) ** 0.9
        weights.grad = torch.tensor(gradient["backbone"]["w"])
        alpha.grad = torch.tensor(gradient["head"]["alpha"])
        reference.step()
        updates, state = update(jax.tree.map(np.float32, gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["backbone"]["w"], weights.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["head"]["alpha"], alpha.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert float(poly_schedule(learning_rate, steps)(steps)) == 0


def test_multipliers_of_attention_and_weight_decay_of_scales(rng):
    initial = {
        "backbone": {"w": rng.standard_normal(3)},
        "head": {"position_attention": {"alpha": rng.standard_normal(()), "query": {"kernel": rng.standard_normal(3)}},
                 "fusion_classifier": {"kernel": rng.standard_normal(3)}},
    }  # fmt: skip
    params = jax.tree.map(np.float32, initial)
    gradient = jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), initial)
    optimizer = sgd(
        lambda step: 0.1, weight_decay=0.5, head_multiplier=2.0, attention_multiplier=5.0, decay_scales=False
    )
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    expected = {"w": (1, 0.5), "alpha": (10, 0.0), "query": (10, 0.5), "fusion_classifier": (2, 0.5)}
    for name, (multiplier, decay) in expected.items():
        select = {
            "w": lambda tree: tree["backbone"]["w"],
            "alpha": lambda tree: tree["head"]["position_attention"]["alpha"],
            "query": lambda tree: tree["head"]["position_attention"]["query"]["kernel"],
            "fusion_classifier": lambda tree: tree["head"]["fusion_classifier"]["kernel"],
        }[name]
        step = -0.1 * multiplier * (select(gradient) + decay * select(params))
        np.testing.assert_allclose(select(updates), step, rtol=1e-4, atol=1e-6)
