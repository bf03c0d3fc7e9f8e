"""Networks that are initialised with the weights of a checkpoint."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import variable_shapes
from danet_jax.weights import initialize
from danet_jax.weights.checkpoint import Checkpoint
from danet_jax.weights.initialize import initialize_from, load_pretrained
from tests.reference.refusal import refused

MODEL = DANet(5, backbone="resnet18")


def random_variables(model, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), variable_shapes(model)
    )


def checkpoint_of(model, seed=1, **fields):
    return Checkpoint(model, random_variables(model, seed), None, "made here", **fields)


@pytest.fixture(scope="module")
def variables():
    return random_variables(MODEL, 2)


def test_a_backbone_is_used_completely(variables):
    checkpoint = checkpoint_of(ResNet("resnet18"))
    started, report = initialize_from(checkpoint, MODEL, variables)
    assert report[0] == "from the checkpoint: backbone"
    assert "head/channel_attention" in report[1]
    assert len(report) == 2
    for collection in ("params", "batch_stats"):
        backbone, head = started[collection]["backbone"], started[collection]["head"]
        jax.tree.map(np.testing.assert_array_equal, backbone, checkpoint.variables[collection])
        jax.tree.map(np.testing.assert_array_equal, head, variables[collection]["head"])


def test_classifiers_with_other_classes_keep_their_initial_values(variables):
    checkpoint = checkpoint_of(DANet(3, backbone="resnet18"))
    started, report = initialize_from(checkpoint, MODEL, variables)
    classifiers = "head/channel_classifier, head/fusion_classifier, head/position_classifier"
    assert report[1].endswith(f": {classifiers}")
    head, loaded, fresh = (tree["params"]["head"] for tree in (started, checkpoint.variables, variables))
    for name in head:
        expected = fresh if name.endswith("classifier") else loaded
        jax.tree.map(np.testing.assert_array_equal, head[name], expected[name])


def test_shardings_are_kept():
    checkpoint = checkpoint_of(DANet(3, backbone="resnet18", auxiliary=True))
    replicated = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec())
    model = DANet(3, backbone="resnet18", channel_attention=False)
    variables = jax.device_put(random_variables(model, 2), replicated)
    started, report = initialize_from(checkpoint, model, variables)
    assert "auxiliary/classifier, auxiliary/in, head/channel" in report[1]
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(started))


def test_options_that_change_the_results_are_reported(variables):
    found = DANet(5, backbone="resnet18", multi_grid=(4, 8), align_corners=True)
    checkpoint = Checkpoint(found, variables, None, "made here")
    _, report = initialize_from(checkpoint, found.clone(multi_grid=None, output_stride=16), variables)
    text = "\n".join(report)
    assert "multi_grid=(4, 8), this one multi_grid=None" in text
    assert "--config.model.output_stride=8" in text
    assert "align_corners" not in text
    _, report = initialize_from(checkpoint, found, variables)
    assert len(report) == 1


def test_load_pretrained(variables, monkeypatch):
    checkpoint = checkpoint_of(ResNet("resnet18"))
    monkeypatch.setattr(initialize, "load_checkpoint", lambda path: checkpoint)
    started = load_pretrained(MODEL, variables, "weights.pth")
    expected, _ = initialize_from(checkpoint, MODEL, variables)
    jax.tree.map(np.testing.assert_array_equal, started, expected)
    other = MODEL.clone(stem="v1c")
    with refused("weights.pth", "v1c", "v1"):
        load_pretrained(other, variable_shapes(other), "weights.pth")
    with refused("variables"):
        load_pretrained(MODEL, {}, "weights.pth")
    checkpoint = checkpoint_of(MODEL.clone(multi_grid=(4, 8)))
    with pytest.warns(UserWarning, match="multi_grid"):
        load_pretrained(MODEL, variables, "weights.pth")
    checkpoint = dataclasses.replace(checkpoint_of(ResNet("resnet18")), mean=(0.5, 0.5, 0.5))
    with pytest.warns(UserWarning, match="mean"):
        load_pretrained(MODEL, variables, "weights.pth")
