"""A tiny run that trains, for tests of the loop and of what it leaves behind."""

import types

import jax
import pytest

from danet_jax.modes import train
from danet_jax.modes.train import training_step
from danet_jax.recipe import defaults, read_recipe
from danet_jax.runs.checkpoints import Checkpoints
from danet_jax.runs.directory import read_classes
from danet_jax.runs.stopping import StopSignals
from danet_jax.runs.stored import describe
from danet_jax.training.mesh import make_mesh
from tests.reference.narrow import narrow_networks

STEPS = 6


@pytest.fixture(scope="module")
def narrow():
    """Networks are narrow in this module."""
    with narrow_networks():
        yield


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    config = defaults()
    config.name = "tiny"
    config.seed = 7
    config.model.backbone = "resnet18"
    config.model.output_stride = 32
    config.dataset.name = "scenes"
    config.dataset.data_dir = str(tmp_path_factory.mktemp("data"))
    config.dataset.options = {"height": 32, "width": 48, "train": 12, "val": 1}
    config.dataset.base_size = config.dataset.crop_size = 32
    config.dataset.workers = 0
    config.mesh.data = 2
    config.training.batch_size = 4
    config.training.steps = STEPS
    config.training.learning_rate = 0.01
    config.training.ohem_threshold = 0.7
    config.training.ohem_kept = 200
    config.training.ema_decay = 0.6
    config.training.class_balance = 0.5
    config.training.evaluate_every = 2
    config.training.checkpoint_every = 3
    config.training.log_every = 1
    config.training.pictures = 0
    config.training.report = False
    return read_recipe(config.to_dict())


@pytest.fixture(scope="session")
def compiled_once(recipe):
    """`training_step` that compiles once for all tests, whose recipes train alike."""
    made = []

    def once(*_, **__):
        if not made:
            step = training_step(recipe, recipe.network(9), STEPS, class_weights=(0.5, *[1.0] * 8))
            made.append(step)
            made.append(step.fresh_state(make_mesh(2, 1)))
        step, state = made
        # The step donates its state.
        return step._replace(fresh_state=lambda *_: jax.tree.map(jax.numpy.copy, state))

    return once


def start(recipe, folder):
    """Trains in a folder as `run.py` does, and returns the exit status."""
    with StopSignals() as signals:
        return train.run(recipe, folder, [], signals=signals)
    print(signals)
    return signals.status


@pytest.fixture
def trained(narrow, recipe, compiled_once, monkeypatch):
    """Trains in a folder, `evaluate` giving the mIoU, and returns the last state."""

    def call(folder, evaluate=lambda: 0.5, changed_step=lambda step: step, status=0, recipe=recipe):
        class Scores:
            def __init__(self, model, classes, protocol, mesh):
                self.protocol = types.SimpleNamespace(name="whole")

            def __call__(self, variables, examples):
                miou = evaluate()
                assert len(list(examples)) == 1
                return types.SimpleNamespace(miou=miou, pixel_accuracy=0.5)

        monkeypatch.setattr(train, "Evaluator", Scores)
        step = compiled_once()
        changed = step._replace(step=changed_step(step.step))
        monkeypatch.setattr(train, "training_step", lambda *_, **__: changed)
        assert start(recipe, folder) == status
        state = step.fresh_state()
        classes = read_classes(folder)
        description = describe(recipe.network(len(classes)), classes)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            restored = checkpoints.restore(state.variables, state.progress, description)
            return restored.variables, restored.progress

    return call
