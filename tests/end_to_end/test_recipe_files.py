"""Invalid recipe files are refused in one line that names the file, the line in it and the problem."""

import os

import pytest

from tests.end_to_end.conftest import QUICKSTART
from tests.end_to_end.test_refusals import refused


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "recipe.py: must define a function get_config"),
        ("get_config = 3", "recipe.py: must define a function get_config"),
        ("def get_config(): pass", "recipe.py: get_config returns NoneType"),
        ("def get_config(): return {}", "recipe.py: get_config returns dict"),
        ("async def get_config(): pass", "recipe.py: get_config returns coroutine"),
        ("def get_config(): yield", "recipe.py: get_config returns generator"),
        ("def get_config(size): pass", "recipe.py: get_config(size) cannot be called without a variant"),
        ("def get_config(a, b): pass", "recipe.py: get_config(a, b) cannot be called"),
        ("def get_config(*, a): pass", "recipe.py: "),
        ("x = 1\nimport nonsense_module", "recipe.py, line 2: ModuleNotFoundError"),
        ("def get_config():\n  return 1 / 0", "recipe.py, line 2: ZeroDivisionError"),
        ("def get_config():\n  pass\n  raise SystemExit(0)", "recipe.py, line 3: SystemExit: 0"),
        ("import sys\nsys.exit(0)", "recipe.py, line 2: SystemExit: 0"),
        ("raise KeyboardInterrupt", "recipe.py, line 1: KeyboardInterrupt"),
        ("raise BaseException('a\\nb')", "recipe.py, line 1: BaseException: a b"),
        ("raise OSError(28, 'No space', 'x')", "recipe.py, line 1: OSError"),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E", "recipe.py, line 3: "),
        ("raise ValueError('\\x1b[31mred\\0')", "recipe.py, line 1: ValueError: \\x1b[31mred\\x00"),
        ("def f(): f()\nf()", "recipe.py, line 1: RecursionError"),
        ("x = (1,\ny = 2", "recipe.py, line 1: SyntaxError"),
        ("\tx = 1\n  y = 2", "recipe.py, line 1: IndentationError"),
        ("assert False, 'x' * 10_000", "recipe.py, line 1: AssertionError"),
        (
            "from danet_jax.recipe import defaults as d\ndef get_config():\n  c = d()\n  c.sed = 1\n  return c",
            "config.sed does not exist",
        ),
        (
            "from danet_jax.recipe import defaults as d\ndef get_config():\n  c = d()\n  c.seed = 'x'",
            "line 4: TypeError",
        ),
        (
            "from danet_jax.recipe import defaults as d\ndef get_config():\n  c = d()\n  c.seed = -1\n  return c",
            "config.seed=-1 ",
        ),
        (
            "import ml_collections as m\ndef get_config(): return m.ConfigDict({'lr': 1})",
            "config.lr does not exist; there are: ",
        ),
        (
            "import ml_collections as m\ndef get_config():\n"
            "  c = m.ConfigDict({'seed': 1})\n  c.name = c.get_oneway_ref('seed') // 0\n  return c",
            "recipe.py",
        ),
    ],
)
def test_invalid_recipe_files_are_refused(source, words, main, capsys, tmp_path):
    (tmp_path / "recipe.py").write_text(source)
    assert words in refused(main, capsys, "--config=recipe.py")


def test_unreadable_recipe_files_are_refused(main, capsys, tmp_path):
    (tmp_path / "binary.py").write_bytes(bytes(range(256)))
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    for name in ("binary.py", "null.py", "folder.py", "pipe.py", "none.py", "a\0b", "n" * 300, "/dev/zero"):
        assert name[:40].replace("\0", r"\x00") in refused(main, capsys, f"--config={name}")
    assert "--config" in refused(main, capsys, "--config=")


def test_variants(main, capsys, tmp_path):
    (tmp_path / "plain.py").write_text("from danet_jax.recipe import defaults as get_config")
    assert "cannot be called with 'big'" in refused(main, capsys, "--config=plain.py:big")
    error = refused(main, capsys, f"{QUICKSTART}:pan")
    assert "quickstart.py: config variant 'pan' does not exist; there are: danet, pam, cam, fcn" in error
