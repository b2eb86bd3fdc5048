"""Imports go one way, and `import idemodels` is light."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

# A module imports only from lines above its own.
LAYERS = [
    "_types",
    "_hashed",
    "_lost",
    "_checks",
    "_barrier",
    "_programs",
    "_interrupt",
    "_second",
    "_results",
    "_objective",
    "_kernel",
    "_model",
    "_optax_state",
    "_parameters",
    "_equation",
    "_flow",
    "_target",
    "_discrete",
    "_method",
    "_flow_report",
    "_solve",
    "_run",
    "_compare",
    "_sensitivity",
    "_hyper",
    "_sweep",
    "_analysis",
    "analysis",
    "_plot",
    "_study",
    "_config",
    "_cli",
    "__main__",
]
ROOT = Path(__file__).parents[1] / "idemodels"
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> set[str]:
    """The layers that a file imports from, its own left out."""
    package = ".".join(("idemodels", *path.relative_to(ROOT).parent.parts))
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [target] if node.module else [f"{target}.{name.name}" for name in node.names]
            found |= {name.split(".")[1] for name in names if name.count(".")}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            whole = isinstance(node, ast.Import)
            modules = [name.name for name in node.names] if whole else [node.module]
            found |= {m.split(".")[1] for m in modules if m and m.startswith("idemodels.")}
    return found - {layer(path), "__version__"}


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_layers_above(path):
    assert layer(path) in LAYERS, "name the new module's place in LAYERS"
    below = {name for name in imported(path) if LAYERS.index(name) >= LAYERS.index(layer(path))}
    assert not below


def test_neither_the_methods_nor_the_referee_know_of_each_other():
    methods = set().union(*(imported(path) for path in FILES if layer(path) == "_method"))
    assert "_discrete" not in methods
    assert "_method" not in imported(ROOT / "_discrete.py")


def test_the_layering_test_sees_imports_of_every_form():
    everything = set().union(*(imported(path) for path in FILES))
    assert {"_types", "_checks", "_equation", "_method"} <= everything


def test_import_loads_nothing_of_the_run_extra_and_starts_no_device():
    code = """
import sys
import idemodels as ide
ide.Adam(0.1, b2=0.99), ide.RMSProp(0.1), ide.AdaGrad(0.1), ide.Markov(), ide.Quadratic()
heavy = ["matplotlib", "pandas", "xarray", "pydantic", "sklearn", "rich", "zarr", "scipy.integrate"]
loaded = [name for name in heavy if name in sys.modules]
from jax._src import xla_bridge
print(loaded, xla_bridge._backends)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] {}"
