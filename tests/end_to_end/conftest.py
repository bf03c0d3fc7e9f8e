"""`run.py` in this process."""

import contextlib
import importlib.util
import io
import types

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.reference.commands import QUICKSTART, ROOT, TINY
from tests.reference.narrow import narrow_networks

FLAGS = (QUICKSTART, *TINY, "--config.dataset.options.train=6", "--config.mesh.data=2")
FLAGS += ("--config.init.alpha=3", "--config.init.beta=3", "--config.training.evaluate_every=2")


def run_main(*arguments):
    """Returns the exit status of `run.py`'s main."""
    spec = importlib.util.spec_from_file_location("run_py", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(["run.py", *map(str, arguments)])


@pytest.fixture
def main(monkeypatch, tmp_path):
    """`run.py`'s main in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run_main


def run(*arguments, cwd):
    """Runs `run.py` in this process and another folder; returns its status and output as `subprocess.run` does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_main(*arguments)
    return types.SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Networks are narrow, and what one test of this module compiles the next ones read."""
    with narrow_networks() as patch:
        folder = str(tmp_path_factory.mktemp("compiled"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        options = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": folder}
        options["jax_persistent_cache_min_compile_time_secs"] = 0.1
        before = {name: getattr(jax.config, name) for name in options}
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def trained(compiled_once, tmp_path_factory):
    """A folder in which tiny scenes were trained for two steps, and the output of that."""
    folder = tmp_path_factory.mktemp("trained")
    shown = ("--config.training.pictures=1", "--config.training.report=True")
    result = run(*FLAGS, *shown, "--config.training.steps=2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result
