"""Prints docs/settings.md from the declarations: `python -m danet_jax.recipe > docs/settings.md`."""

from __future__ import annotations

from danet_jax.recipe import Recipe
from danet_jax.recipe.schema import group_of, schemas, takes
from danet_jax.recipe.types import Group

_HEAD = """# Settings

These are all options of a recipe: what each takes, its default, and what it does. A file in `configs/` sets an option
by `config.GROUP.NAME = VALUE`, the command line by `--config.GROUP.NAME=VALUE`. Invalid values are refused in one line
before anything is read, prepared or written. `python -m danet_jax.recipe` generates this page.
"""


def page() -> str:
    """Returns docs/settings.md."""
    sections = [_HEAD, _section("config", Recipe)]
    for name, field in Recipe.model_fields.items():
        if group := group_of(field):
            sections.append(_section(f"config.{name}", group))
    return "\n".join(sections)


def _section(key: str, group: type[Group]) -> str:
    lines = [f"## {key}", "", group.__doc__ or "", "", "| option | default | takes | |", "|---|---|---|---|"]
    for name, field in group.model_fields.items():
        if not group_of(field):
            takes_ = takes(schemas(group)[name])
            cells = (f"`{name}`", f"`{field.default!r}`", takes_, field.description or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
