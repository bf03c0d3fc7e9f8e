"""`python -m danet_jax.recipe > docs/settings.md`."""

from danet_jax.recipe.page import page

print(page(), end="")
