"""The architecture: which package may import which, what importing danet_jax costs, and that examples run."""

import ast
import doctest
import importlib
import importlib.metadata
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import jax
import pytest

import danet_jax

PACKAGE = pathlib.Path(danet_jax.__file__).parent
# Each package may import those before it. Modules outside of packages serve all of them.
PACKAGES = ["ops", "models", "runs", "weights", "data", "inference", "evaluation", "training", "visual"]
PACKAGES += ["recipe", "command", "modes"]
EVERYWHERE = {"errors", "classes"}


def all_imports_of(path: pathlib.Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports_of(path: pathlib.Path) -> set[str]:
    return {name.split(".")[1] for name in all_imports_of(path) if name.startswith("danet_jax.")}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_those_above_them(package):
    allowed = EVERYWHERE | set(PACKAGES[: PACKAGES.index(package) + 1])
    modules = {path.stem for path in PACKAGE.glob("*.py")} | set(PACKAGES)
    for path in (PACKAGE / package).rglob("*.py"):
        forbidden = (imports_of(path) & modules) - allowed
        assert not forbidden, f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(forbidden))}"


def test_only_the_command_line_package_reads_flags():
    for path in set(PACKAGE.rglob("*.py")) - set((PACKAGE / "command").rglob("*.py")):
        text = path.read_text()
        assert "flags.DEFINE" not in text, path
        assert "sys.argv[" not in text, path


PRIVATE_JAX = re.compile(r"jax\._src|jax\.interpreters|from jax import interpreters|\bjax\.(\w+\.)*_[a-z]")
EXCEPTIONS = {"ops/attention/tpu_only.py"}  # docs/architecture.md says why


def test_only_the_public_interface_of_jax_is_used():
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if PRIVATE_JAX.search(path.read_text())
    }
    assert found == EXCEPTIONS


def test_everything_imported_is_declared():
    def distribution(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()

    project = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(r for name in ("torch", "onnx", "gcs") for r in extras[name])]
    declared = {distribution(requirement) for requirement in required}
    installed = importlib.metadata.packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for module in {name.split(".")[0] for name in all_imports_of(path)} - sys.stdlib_module_names:
            # A library that is not installed here is an extra of the same name.
            provides = {distribution(name) for name in installed.get(module, [module])}
            assert module == "danet_jax" or provides & declared, f"{path}: {module} is not declared"


def test_every_module_can_be_imported():
    for module in pkgutil.walk_packages(danet_jax.__path__, "danet_jax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_files_and_functions_named_in_architecture_md_exist():
    top = pathlib.Path(__file__).parents[1]
    named = re.findall(r"`((?:\w+/)*\w+\.py)(?::(\w+))?`", (top / "docs/architecture.md").read_text())
    assert len(named) > 30
    for name, function in named:
        files = [file for file in (PACKAGE / name, top / name, *PACKAGE.glob(f"*/{name}")) if file.is_file()]
        assert files, name
        if function:
            assert re.search(rf"^(def|class) {function}\b", files[0].read_text(), re.MULTILINE), function


def test_every_public_name_exists():
    for name in danet_jax.__all__:
        assert getattr(danet_jax, name) is not None
    with pytest.raises(AttributeError, match="DANet"):
        danet_jax.Danet  # noqa: B018


def test_importing_the_network_imports_no_data_or_checkpoint_library():
    code = (
        "import sys, danet_jax; danet_jax.DANet; danet_jax.position_attention;"
        "heavy = {'pydantic', 'tensorflow', 'tensorflow_datasets', 'grain', 'orbax.checkpoint', 'cv2', 'torch'};"
        "heavy |= {'clu', 'PIL'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        ".".join(x.relative_to(PACKAGE).with_suffix("").parts)
        for x in PACKAGE.rglob("*.py")
        if ">>>" in x.read_text()
    ],
)
def test_examples_in_docstrings_run(module, few_blocks, monkeypatch):
    devices = jax.devices()[:1]  # their batches need not divide over the eight devices of the tests
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(importlib.import_module(f"danet_jax.{module}"))
    assert not result.failed
