"""Every option refuses invalid values; its type and default are those of what it configures."""

import dataclasses
import inspect
import json
import math
import pathlib

import annotated_types
import pytest

from danet_jax.inference.protocol import Protocol
from danet_jax.models.danet import DANet
from danet_jax.models.options import DTYPES, OPTIONS
from danet_jax.recipe import Recipe, as_config, defaults, read_recipe
from danet_jax.recipe.__main__ import page
from danet_jax.recipe.schema import group_of, plain_type, schemas, takes
from danet_jax.training.losses import multi_loss
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import AttentionStart, make_train_step
from tests.reference.refusal import refused

ROOT = pathlib.Path(__file__).parents[2]


def declared_options():
    """Yields (key, field, schema) of every option, for example ("training.momentum", ...)."""
    for name, field in Recipe.model_fields.items():
        if group := group_of(field):
            for inner, option in group.model_fields.items():
                yield f"{name}.{inner}", option, schemas(group)[inner]
        else:
            yield name, field, schemas(Recipe)[name]


FIELDS = {key: field for key, field, _ in declared_options()}
SCHEMAS = {key: schema for key, _, schema in declared_options()}


def changed(**options):
    """The default recipe with options changed, `training__steps` for `training.steps`, as a config has it."""
    config = Recipe().model_dump()
    for key, value in options.items():
        *groups, name = key.split("__")
        group = config
        for inner in groups:
            group = group[inner]
        group[name] = value
    return config


def refuse(key, value):
    with refused(what=f"config.{key}") as caught:
        read_recipe(changed(**{key.replace(".", "__"): value}))
    assert len(str(caught.value)) < 500
    return caught.value


OTHER_TYPES = {
    bool: [1, 0, "True", 1.0, (True,), {}],
    int: [True, 1.5, "8", (8,), {}, b"8"],
    float: [True, "0.5", (0.5,), {}, math.nan, math.inf, -math.inf, 10**400, 1 + 0j],
    str: [1, True, ("a",), {}, b"a"],
    tuple: [1, "(1, 2)", {1, 2}, {}, (True, True), ((1,),), (math.nan,) * 3, (math.inf, 1), (None,)],
    dict: [1, "a", (1,), {"a": math.nan}, {"a": object()}, {"a": {1, 2}}],
}


def limits(annotation, metadata):
    """Yields a value beyond every limit that a declaration or its elements have."""
    for item in metadata:
        for limit in item.metadata if hasattr(item, "metadata") else [item]:
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


@pytest.mark.parametrize("key", FIELDS)
def test_every_option_refuses_invalid_values(key):
    field, kind = FIELDS[key], plain_type(SCHEMAS[key])
    values = [*OTHER_TYPES[kind], *([None] if field.default is not None else [])]
    beyond = list(limits(field.annotation, field.metadata))
    if kind in (int, float):
        assert beyond or key.endswith("output_stride"), f"{key} has no range"
        values += [-(10**30), 10**30]
    if kind is str:
        values += ["a\nb", "a\0b", "\x1b[31m", "a" * 5000, "\udc80"]
    for value in [*values, *((value, value) if kind is tuple else kind(value) for value in beyond)]:
        refuse(key, value)


# Beyond types and ranges. Keys with `__` for the dots; the first one is named in the refusal.
INVALID = [
    *({"name": name} for name in ("", ".", "..", "/", "a/b", "n" * 300)),
    *({"dataset__data_dir": place} for place in ("", " ", "gs://bucket/data")),
    *({"dataset__root": "gs://bucket/archives"}, {"dataset__train_split": ""}),
    *({"dataset__flip_pairs": pairs} for pairs in (("left",), ("a=b=c",), ("=b",))),
    *({"training__loss_weights": weights} for weights in ((), (1, 1), (1, 1, 1, 1), (0, 0, 0))),
    {
        "training__loss_weights": (0, 1, 1),
        "model__position_attention": False,
        "model__channel_attention": False,
    },
    {"training__batch_size": 9, "training__accumulation": 2},
    *({"training__profile_steps": steps} for steps in ((3,), (5, 4))),
    {"model__multi_grid": (4, 8)},
    {"model__multi_grid": (4, 8, 16, 32)},
    {"model__multi_grid": (4, 8, 16), "model__backbone": "resnet18"},
    {"dataset__crop_size": 31, "model__output_stride": 32},
    *({"evaluation__scales": scales} for scales in ((), (0,), (-1,))),
    {"evaluation__scales": (16,), "evaluation__base_size": (1025,)},
    *({"evaluation__window": window} for window in ((8,), (8, 8, 8), (7, 64))),
    {"evaluation__stride": (8, 8)},
    {"evaluation__stride": (9, 8), "evaluation__window": (8, 8)},
    *({"evaluation__base_size": size} for size in ((1, 2, 3), (0,))),
    *({"evaluation__mean": mean} for mean in ((0.5,), (123.7, 116.3, 103.5), (-0.1, 0.5, 0.5))),
    *({"evaluation__std": std} for std in ((0.5,), (58.4, 57.1, 57.4), (0, 1, 1), (1e-4, 1, 1))),
    {"evaluation__flip": True, "dataset__flip": False},
    *({"mesh__data": 0}, {"mesh__space": 0}, {"mesh__data": -1, "mesh__space": -1}),
]


@pytest.mark.parametrize("options", INVALID, ids=str)
def test_invalid_combinations_are_refused(options):
    with refused(what=f"config.{next(iter(options)).replace('__', '.')}"):
        read_recipe(changed(**options))


def test_every_option_has_a_description_of_whole_sentences():
    for field in FIELDS.values():
        assert field.description[0].isupper()
        assert field.description.endswith(".")


def test_the_nearest_name_is_suggested_for_an_unknown_one():
    keys = [key for key, schema in SCHEMAS.items() if "one of: " in takes(schema)]
    assert len(keys) > 10
    for key in keys:
        if plain_type(SCHEMAS[key]) is str:
            existing = refuse(key, "nonsense").allowed
            assert f"did you mean {existing[0]}?" in str(refuse(key, f"{existing[0]}_"))


@pytest.mark.parametrize(
    ("config", "what", "near"),
    [
        ({"training": {"momentun": 0.9}}, "config.training.momentun", "momentum"),
        ({"trainin": {}}, "config.trainin", "training"),
        ({"training": {3: 0.9}}, "config.training.3", ""),
        ({"training": 3}, "config.training", ""),
        ({"model": None}, "config.model", ""),
        *((config, "config", "") for config in ([], None, 3, "text")),
    ],
)
def test_unknown_options_and_groups_are_refused(config, what, near):
    with refused(what=what) as caught:
        read_recipe(config)
    assert f"did you mean {near}?" in str(caught.value) or not near
    group = Recipe if what.count(".") < 2 and "=" not in str(caught.value) else None
    if group is Recipe:
        assert set(caught.value.allowed) == set(Recipe.model_fields)


def test_settings_md_is_generated_from_the_code():
    assert (ROOT / "docs/settings.md").read_text() == page(), "python -m danet_jax.recipe > docs/settings.md"


def test_recipes_survive_json_and_missing_options_have_defaults():
    config = defaults()
    config.training.steps = 7
    config.model.multi_grid = (4, 8, 16)
    config.evaluation.window = (96, 64)
    recipe = read_recipe(config.to_dict())
    assert recipe.training.steps == 7
    assert read_recipe(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert read_recipe(as_config(recipe).to_dict()) == recipe
    assert read_recipe({}) == read_recipe(defaults().to_dict()) == Recipe()
    assert read_recipe({"training": {"learning_rate": 1}}).training.learning_rate == 1.0


def test_the_deprecated_name_of_the_initial_checkpoint():
    for init in ({"source": "a"}, {"source": "a", "checkpoint": ""}, {"source": "a", "checkpoint": "a"}):
        recipe = read_recipe({"init": init})
        assert recipe.init.checkpoint == "a"
        assert "source" not in recipe.as_dict()["init"]
    assert read_recipe({"init": {"source": "", "checkpoint": "b"}}).init.checkpoint == "b"
    with refused(what="config.init.source"):
        read_recipe({"init": {"source": "a", "checkpoint": "b"}})
    with refused(what="config.init.checkpoint", value=3):
        read_recipe({"init": {"source": 3}})


def parameters(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_defaults_equal_those_of_the_configured_functions():
    model, training, init = Recipe().model.model_dump(), Recipe().training, Recipe().init
    network = {field.name: field.default for field in dataclasses.fields(DANet)}
    assert set(model) == set(OPTIONS)
    del model["backbone"]
    assert DTYPES[model.pop("dtype")] == (network["dtype"] or DTYPES["float32"])
    assert model.pop("multi_grid") == (network["multi_grid"] or ())
    assert model == {name: network[name] for name in model}

    for function, options in (
        (make_train_step, {"ema_decay": "average_decay"}),
        (make_train_step, dict.fromkeys(("loss_weights", "auxiliary_weight", "accumulation"))),
        (multi_loss, {"loss_weights": "weights", "auxiliary_weight": None}),
        (sgd, dict.fromkeys(("momentum", "weight_decay", "head_multiplier"))),
        (sgd, dict.fromkeys(("attention_multiplier", "decay_scales"))),
        (poly_schedule, {"power": None}),
    ):
        for option, argument in options.items():
            assert getattr(training, option) == parameters(function)[argument or option], option
    start = dataclasses.asdict(AttentionStart())
    assert start == {name: getattr(init, name) for name in start}


def test_evaluation_options_are_the_fields_of_the_protocol():
    options = Recipe().evaluation.model_dump()
    assert options.pop("protocol") == Protocol().replace(name="whole").name
    assert options.pop("whole_base_size") is None
    fields = {field.name for field in dataclasses.fields(Protocol)}
    assert set(options) == fields - {"name", "bits", "flip_pairs", "mirrored"}
    assert set(options.values()) == {None}
    assert Recipe().protocol() == Protocol.whole()
