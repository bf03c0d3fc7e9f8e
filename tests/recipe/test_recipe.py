"""Every declared option refuses what it does not take, in one line; the page of settings is the code's."""

import dataclasses
import json
import math
import pathlib

import annotated_types
import pytest

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.options import OPTIONS as OPTIONS_OF_NETWORKS
from danet_jax.recipe import Recipe, defaults, read_recipe
from danet_jax.recipe.page import page
from danet_jax.recipe.words import group_of, plain_type, takes

ROOT = pathlib.Path(__file__).parents[2]


def options():
    """(key, field) of every option, for example ("training.momentum", ...)."""
    for name, field in Recipe.model_fields.items():
        group = group_of(field.annotation)
        if group is None:
            yield name, field
        else:
            yield from ((f"{name}.{inner}", declared) for inner, declared in group.model_fields.items())


OPTIONS = dict(options())


def changed(key, value):
    """The default recipe with one option changed, as a config has it."""
    config = Recipe().model_dump()
    *groups, name = key.split(".")
    group = config
    for inner in groups:
        group = group[inner]
    group[name] = value
    return config


def refused(key, value):
    with pytest.raises(InputError) as caught:
        read_recipe(changed(key, value))
    message = str(caught.value)
    assert f"config.{key}=" in message
    assert message.count("\n") == 0
    assert len(message) < 400
    return message


WRONG_TYPES = {
    bool: [1, 0, "True", 1.0, (True,), {}],
    int: [True, 1.5, "8", (8,), {}, b"8"],
    float: [True, "0.5", (0.5,), {}, math.nan, math.inf, -math.inf, 10**400, 1 + 0j],
    str: [1, True, ("a",), {}, b"a"],
    tuple: [1, "(1, 2)", {1, 2}, {}, (True, True), ((1,),), (math.nan,) * 3, (math.inf, 1), (None,)],
    dict: [1, "a", (1,), {"a": math.nan}, {"a": object()}, {"a": {1, 2}}],
}


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_refuses_other_types(key):
    field = OPTIONS[key]
    for value in WRONG_TYPES[plain_type(field.annotation)]:
        refused(key, value)
    if field.default is not None:
        refused(key, None)


def limits(annotation, metadata):
    """(value out of range, whether it is an element) by every limit that a declaration has."""
    for item in metadata:
        items = item.metadata if hasattr(item, "metadata") else [item]
        for limit in items:
            if isinstance(limit, annotated_types.Ge):
                yield limit.ge - 1
            elif isinstance(limit, annotated_types.Gt):
                yield limit.gt
            elif isinstance(limit, annotated_types.Le):
                yield limit.le + 1
            elif isinstance(limit, annotated_types.Lt):
                yield limit.lt
    for inner in getattr(annotation, "__args__", ()):
        yield from limits(inner, getattr(inner, "__metadata__", ()))


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_refuses_what_is_out_of_range(key):
    field = OPTIONS[key]
    kind = plain_type(field.annotation)
    values = [kind_of(kind, value) for value in limits(field.annotation, field.metadata)]
    if kind in (int, float):
        assert values or key.endswith("output_stride"), f"{key} has no range"
        values += [-(10**30), 10**30]
    if kind is str:
        values += ["a\nb", "a\0b", "\x1b[31m", "a" * 5000, "\udc80"]
    for value in values:
        refused(key, value)


def kind_of(kind, value):
    return (value, value) if kind is tuple else kind(value)


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_is_explained_and_its_default_accepted(key):
    field = OPTIONS[key]
    assert field.description
    assert field.description.endswith(".")
    read_recipe(changed(key, field.default))


def test_a_name_that_does_not_exist_is_answered_with_those_that_do():
    keys = [
        key
        for key, field in OPTIONS.items()
        if "one of: " in takes(field) and plain_type(field.annotation) is str
    ]
    assert len(keys) > 8
    for key in keys:
        assert "'nonsense' does not exist; there are: " in refused(key, "nonsense")


def test_the_page_of_settings_is_the_codes():
    assert (ROOT / "docs/settings.md").read_text() == page(), "python -m danet_jax.recipe > docs/settings.md"


def test_options_that_do_not_exist():
    with pytest.raises(
        InputError, match=r"config.training.momentun does not exist; config.training has: accumulation,"
    ):
        read_recipe({"training": {"momentun": 0.9}})
    with pytest.raises(
        InputError, match=r"config.trainin does not exist; config has: .*dataset, evaluation,"
    ):
        read_recipe({"trainin": {}})
    with pytest.raises(InputError, match=r"config.training=3 must be a group of options: accumulation"):
        read_recipe({"training": 3})
    for config in ([], None, 3, "text"):
        with pytest.raises(InputError, match=r"config=.* must be a group of options: .*dataset, evaluation"):
            read_recipe(config)


def test_a_recipe_goes_through_json_and_what_is_missing_is_the_default():
    config = defaults()
    config.training.steps = 7
    config.model.multi_grid = (4, 8, 16)
    config.evaluation.window = (96, 64)
    recipe = read_recipe(config.to_dict())
    assert recipe.training.steps == 7
    assert read_recipe(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert read_recipe({}) == read_recipe(defaults().to_dict()) == Recipe()
    assert read_recipe({"training": {"learning_rate": 1}}).training.learning_rate == 1.0


def test_options_of_the_model_are_the_networks():
    """A run's network is built of config.json alone, where what is missing is `DANet`'s own default."""
    fields = {field.name: field.default for field in dataclasses.fields(DANet)}
    model = Recipe().model.model_dump()
    assert set(model) == set(OPTIONS_OF_NETWORKS)
    networks = read_recipe({}).model.model_dump() | {
        "dtype": fields["dtype"],
        "multi_grid": None,
        "backbone": "",
    }
    assert networks == {key: fields[key] for key in model} | {"backbone": ""}


def test_what_must_fit_together():
    for config, words in (
        ({"dataset": {"crop_size": 7}}, "crop_size=7 must be at least config.model.output_stride=8"),
        ({"training": {"batch_size": 9, "accumulation": 2}}, "batch_size=9 must be a multiple of"),
        ({"training": {"loss_weights": (0, 0, 0)}}, "loss_weights=(0.0, 0.0, 0.0) must be greater than 0"),
        ({"mesh": {"data": -1, "space": -1}}, "only one can be -1"),
        ({"model": {"multi_grid": (4, 8)}}, "multi_grid=(4, 8) must be () or 3 dilations"),
        ({"model": {"multi_grid": (4, 8, 16), "backbone": "resnet18"}}, "must be () or 2 dilations"),
        ({"evaluation": {"window": (8, 8), "stride": (9, 8)}}, "config.evaluation.stride=(9, 8) leaves gaps"),
        ({"evaluation": {"stride": (8, 8)}}, "config.evaluation.stride=(8, 8) needs a window"),
        ({"evaluation": {"whole_base_size": (0,)}}, "config.evaluation.whole_base_size=(0,) must be"),
    ):
        with pytest.raises(InputError) as caught:
            read_recipe(config)
        assert words in str(caught.value)
    fcn = {"position_attention": False, "channel_attention": False}
    with pytest.raises(InputError, match="must be greater than 0 for a branch that is on"):
        read_recipe({"model": fcn, "training": {"loss_weights": (0, 1, 1)}})
