"""`docs/settings.md`, written from the declarations."""

from __future__ import annotations

from danet_jax.recipe import Recipe
from danet_jax.recipe.kinds import Group
from danet_jax.recipe.words import group_of, takes

_HEAD = """# Settings

Every option of a recipe: what it takes, its default, and what it means. A file in `configs/` sets them as
`config.GROUP.NAME = VALUE`, the command line as `--config.GROUP.NAME=VALUE`. What makes no sense is refused in one line
before anything is read, prepared or written. This page is written from the code: `python -m danet_jax.recipe`.
"""


def page() -> str:
    """The page in Markdown."""
    sections = [_HEAD, _section("config", Recipe)]
    for name, field in Recipe.model_fields.items():
        group = group_of(field.annotation)
        if group is not None:
            sections.append(_section(f"config.{name}", group))
    return "\n".join(sections)


def _section(key: str, group: type[Group]) -> str:
    lines = [f"## {key}", "", group.__doc__ or "", "", "| option | default | takes | |", "|---|---|---|---|"]
    for name, field in group.model_fields.items():
        if group_of(field.annotation) is None:
            cells = (f"`{name}`", f"`{field.default!r}`", takes(field), field.description or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
