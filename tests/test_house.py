"""The rules of the house: who imports whom, how long things are, and what is never written.

`violations(root)` reads a tree without importing it. The tests below hold it against this tree,
and against small trees into which a violation was put.
"""

import ast
import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
OURS = ("deepseek_jax", "pallas_kernels", "experiments", "configs", "tests")

# A room may import rooms of its own level and of those below, never above.
LEVELS = {
  "pallas_kernels": 0,
  **dict.fromkeys((f"deepseek_jax.{r}" for r in ("types", "config", "presets", "compilation")), 0),
  **dict.fromkeys((f"deepseek_jax.{r}" for r in ("paths", "by_name", "seeds", "hosts")), 0),
  "deepseek_jax.ops": 1,
  **dict.fromkeys(("deepseek_jax.tasks", "deepseek_jax.model", "deepseek_jax.sharding"), 2),
  **dict.fromkeys((f"deepseek_jax.{r}" for r in ("plan", "train", "decode", "data", "hub")), 3),
  **dict.fromkeys(("deepseek_jax.rl", "deepseek_jax.evaluate"), 4),
  "deepseek_jax.recipe": 5,
  "deepseek_jax.api": 6,
  "deepseek_jax": 7,
  "configs": 8,
  "experiments": 9,
  "tests": 10,
}
ONLY_OURSELVES = ("pallas_kernels", "configs")  # import nothing of ours from outside
FILE_LINES, FUNCTION_LINES = 400, 80
NAMELESS = ("utils", "util", "helpers", "common", "misc")
# Pieces, so that this file does not hold what it looks for.
OUTSIDE = re.compile("|".join(("\\.\\./sha" + "red", "/wo" + "rk/")))


def violations(root: Path) -> list[str]:
  """Everything in the tree under `root` that breaks a rule, one line each."""
  sources = {_module(root, path): path for path in _files(root, "*.py")}
  trees = {name: ast.parse(path.read_text(), str(path)) for name, path in sources.items()}
  graph = {name: imports(name, sources, tree) for name, tree in trees.items()}
  found = [line for name in graph for line in _bad_imports(name, graph[name])]
  found += [f"{' -> '.join(cycle)}: a cycle of imports" for cycle in _cycles(graph)]
  found += [f"{name}: reaches jax, but is plain Python" for name in _tasks_with_jax(graph)]
  for name, tree in trees.items():
    found += _bad_form(name, tree, sources[name])
  for path in _files(root, "*.ipynb"):
    found += _bad_notebook(path)
  for path in _files(root, "*"):
    text = path.read_bytes().decode("utf-8", "ignore")
    if path.suffix in (".py", ".md", ".toml", ".ipynb", "") and OUTSIDE.search(text):
      found.append(f"{path.relative_to(root)}: mentions a path outside the repository")
  return found


def imports(module: str, sources: dict[str, Path], tree: ast.AST) -> set[str]:
  """All modules that `module` imports anywhere, by statement or by a literal name."""
  package = module if sources[module].name == "__init__.py" else module.rpartition(".")[0]
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = _absolute(package, "." * node.level + (node.module or ""))
      names = {f"{base}.{alias.name}" for alias in node.names}
      found |= {name if name in sources else base for name in names}
    elif isinstance(node, ast.Call) and node.args and _called(node) in IMPORTERS:
      name = node.args[0]
      if isinstance(name, ast.Constant) and isinstance(name.value, str):
        found.add(_absolute(package, name.value))
  return found


IMPORTERS = ("import_module", "__import__", "resolve_name", "run_module")


def _called(node: ast.Call) -> str:
  return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def _absolute(package: str, name: str) -> str:
  """`..x` as seen from `package`; names without leading dots are absolute already."""
  dots = len(name) - len(name.lstrip("."))
  if not dots:
    return name
  parts = package.split(".")
  return ".".join(p for p in (*parts[: len(parts) - dots + 1], name.lstrip(".")) if p)


def _files(root: Path, pattern: str) -> Iterator[Path]:
  """Files of the repository: not those of tools, builds and environments."""
  for path in sorted(root.rglob(pattern)):
    parts = path.relative_to(root).parts
    generated = any(
      p.startswith(".") and p != ".ci" or p in ("build", "runs", "__pycache__") or "egg-info" in p
      for p in parts
    )
    if path.is_file() and not generated:
      yield path


def _module(root: Path, path: Path) -> str:
  parts = path.relative_to(root).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
  """The room a module lies in: the longest entry of LEVELS that it belongs to, or its package."""
  names = module.split(".")
  prefixes = [".".join(names[:n]) for n in range(len(names), 0, -1)]
  known = next((p for p in prefixes if p in LEVELS), names[0])
  return ".".join(names[:2]) if known == "deepseek_jax" and len(names) > 1 else known


def _bad_imports(module: str, imported: set[str]) -> Iterator[str]:
  """Imports upwards, and imports that a package of its own kind may not make."""
  room = _room(module)
  if room not in LEVELS and module.partition(".")[0] in OURS:
    yield f"{module}: {room} has no level"
    return
  top = room.partition(".")[0]
  for other in sorted(imported):
    other_top = other.partition(".")[0]
    if other_top in OURS:
      if top in ONLY_OURSELVES and other_top != top:
        yield f"{module}: imports {other}, but {top} imports nothing of ours"
      elif LEVELS.get(_room(other), 99) > LEVELS.get(room, 99):
        yield f"{module}: imports {other}, which lies above it"
    elif top == "configs" and other_top not in {"ml_collections", *sys.stdlib_module_names}:
      yield f"{module}: imports {other}, but configs import ml_collections only"


def _tasks_with_jax(graph: dict[str, set[str]]) -> Iterator[str]:
  """Modules of `tasks` from which jax is reached, which is to be usable without it."""
  for name in graph:
    if _room(name) == "deepseek_jax.tasks":
      reached, todo = set(), [name]
      while todo:
        now = todo.pop()
        if now not in reached:
          reached.add(now)
          todo += graph.get(now, ())
      if any(r.partition(".")[0] in ("jax", "flax", "optax") for r in reached):
        yield name


def _cycles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
  """One cycle for each module that can reach itself and is the first of the cycle by name."""

  @functools.cache
  def reachable(start: str) -> frozenset[str]:
    reached, todo = set(), list(graph[start])
    while todo:
      now = todo.pop()
      if now in graph and now not in reached:
        reached.add(now)
        todo += graph[now]
    return frozenset(reached)

  for name in sorted(graph):
    circle = sorted(o for o in reachable(name) if name in reachable(o))
    if circle and circle[0] == name:
      yield circle


def _bad_form(module: str, tree: ast.Module, path: Path) -> Iterator[str]:
  """Lengths, docstrings and names."""
  lines = len(path.read_text().splitlines())
  if lines > FILE_LINES:
    yield f"{module}: {lines} lines, above {FILE_LINES}"
  if not ast.get_docstring(tree):
    yield f"{module}: no docstring"
  if path.stem in NAMELESS:
    yield f"{module}: {path.stem} names no thing"
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = (node.end_lineno or 0) - node.lineno + 1
      if length > FUNCTION_LINES:
        yield f"{module}.{node.name}: {length} lines, above {FUNCTION_LINES}"


def _bad_notebook(path: Path) -> Iterator[str]:
  """Of ours a notebook imports deepseek_jax and configs, and of the rest nothing beneath them."""
  cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
  code = ["".join(cell["source"]) for cell in cells]
  if not code or "pip install" not in code[0]:
    yield f"{path.name}: the first cell installs nothing"
  plain = re.sub(r"^\s*[%!].*$", "pass", "\n".join(code), flags=re.MULTILINE)
  name = path.stem
  for other in sorted(imports(name, {name: path}, ast.parse(plain))):
    top = other.partition(".")[0]
    if top in ("experiments", "tests", "pallas_kernels", "jax", "flax", "optax"):
      yield f"{path.name}: imports {other}; notebooks import deepseek_jax and configs"


def test_the_house_keeps_its_rules():
  found = violations(ROOT)
  assert not found, "\n".join(found)


def test_every_room_is_seen():
  rooms = {_room(_module(ROOT, p)) for p in _files(ROOT / "deepseek_jax", "*.py")}
  assert len(rooms) > 5
  modules = {_module(ROOT, p) for p in _files(ROOT, "*.py")}
  assert {"deepseek_jax.config", "deepseek_jax.ops", "tests.conftest"} <= modules


SOUND = {
  "deepseek_jax/__init__.py": "def __getattr__(name):\n  from deepseek_jax import api\n",
  "deepseek_jax/api.py": "from deepseek_jax.train import loop",
  "deepseek_jax/config.py": "import dataclasses",
  "deepseek_jax/types.py": "import jax",
  "deepseek_jax/train/__init__.py": "",
  "deepseek_jax/train/loop.py": "from deepseek_jax import config\nfrom . import step",
  "deepseek_jax/train/step.py": "import jax",
  "deepseek_jax/tasks/__init__.py": "",
  "deepseek_jax/tasks/sums.py": "from deepseek_jax.config import x",
  "pallas_kernels/api.py": "from pallas_kernels import ref",
  "pallas_kernels/ref.py": "import jax",
  "experiments/r1.py": "import deepseek_jax as ds\nfrom configs import mini",
  "configs/mini.py": "from ml_collections import config_dict\nimport configs.base",
  "configs/base.py": "import math",
  "README.md": "a sound house",
}


def plant(root: Path, files: dict[str, str]) -> list[str]:
  """Writes SOUND with `files` put into it and returns what the checker finds."""
  for name, text in {**SOUND, **files}.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = name.endswith(".py") and not text.startswith("#bare")
    path.write_text('"""Says what."""\n' + text if bare else text)
  return violations(root)


def notebook(*cells: str) -> str:
  return json.dumps({"cells": [{"cell_type": "code", "source": [c]} for c in cells]})


def test_a_sound_tree_passes(tmp_path):
  sound = notebook("%pip install -e .", "import deepseek_jax as ds\nimport matplotlib")
  assert plant(tmp_path, {"notebooks/one.ipynb": sound}) == []


TASK = "deepseek_jax/tasks/sums.py"
STEP = "deepseek_jax/train/step.py"
VIOLATIONS = {
  "upwards": (STEP, "from deepseek_jax.api import load", "lies above"),
  "upwards, plain": (STEP, "import deepseek_jax.api", "lies above"),
  "upwards, aliased": (STEP, "import os, deepseek_jax.rl as r", "lies above"),
  "upwards, member": (STEP, "from deepseek_jax import api", "lies above"),
  "upwards, relative": (STEP, "from .. import api", "lies above"),
  "upwards, relative module": (STEP, "from ..rl.rollout import x", "lies above"),
  "upwards, in a function": (STEP, "def f():\n  import deepseek_jax.recipe", "lies above"),
  "upwards, when typing": (STEP, "if TYPE_CHECKING:\n  from deepseek_jax import api", "lies above"),
  "upwards, importlib": (STEP, "importlib.import_module('deepseek_jax.rl.x')", "lies above"),
  "upwards, import_module": (STEP, "import_module('..api', __package__)", "lies above"),
  "upwards, __import__": (STEP, "__import__('deepseek_jax.api')", "lies above"),
  "upwards, lazily": (
    "deepseek_jax/train/__init__.py",
    "def __getattr__(name):\n  from ..evaluate import report",
    "lies above",
  ),
  "the package itself": (STEP, "import deepseek_jax", "lies above"),
  "experiments from below": (STEP, "from experiments import r1", "lies above"),
  "configs from below": (STEP, "import configs.mini", "lies above"),
  "tests from below": ("experiments/r1.py", "import tests.conftest", "lies above"),
  "an unknown room": ("deepseek_jax/attic.py", "", "has no level"),
  "a cycle": (STEP, "def f():\n  from deepseek_jax.train import loop", "a cycle"),
  "a cycle of one": (STEP, "import deepseek_jax.train.step", "a cycle"),
  "kernels": ("pallas_kernels/ref.py", "import deepseek_jax.types", "nothing of ours"),
  "configs of ours": ("configs/mini.py", "import deepseek_jax.config", "nothing of ours"),
  "configs with jax": ("configs/mini.py", "def f():\n  import jax", "ml_collections only"),
  "tasks with jax": (TASK, "import jax.numpy as jnp", "plain Python"),
  "tasks with jax behind": (TASK, "from deepseek_jax.types import Batch", "plain Python"),
  "a long file": (STEP, "x = 1\n" * FILE_LINES, "lines, above 400"),
  "a long function": (STEP, "def f():\n" + "  pass\n" * FUNCTION_LINES, "step.f: 81 lines"),
  "a long method": (STEP, "class A:\n  def f():\n" + "    pass\n" * 80, "step.f: 81 lines"),
  "no docstring": (STEP, "#bare\nimport jax", "no docstring"),
  "no noun": ("deepseek_jax/train/utils.py", "", "names no thing"),
  "a path outside": ("README.md", "see ../sha" + "red/X.md", "outside the repository"),
  "a machine's path": (STEP, "x = '/wo" + "rk/venv'", "outside the repository"),
  "a notebook that installs nothing": ("notebooks/a.ipynb", notebook("1"), "installs nothing"),
  "a notebook with jax": (
    "notebooks/a.ipynb",
    notebook("%pip install x", "from jax import numpy"),
    "notebooks import",
  ),
  "a notebook with experiments": (
    "notebooks/a.ipynb",
    notebook("!pip install x", "%time\nimport experiments.r1"),
    "notebooks import",
  ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_the_checker_catches(case, tmp_path):
  path, text, complaint = VIOLATIONS[case]
  found = plant(tmp_path, {path: text})
  assert any(complaint in line for line in found), found


ROOMS = sorted(r for r in LEVELS if r.startswith("deepseek_jax."))
FORMS = ("import {}.x", "from {} import x", "def f():\n  importlib.import_module('{}')")


@given(st.sampled_from(ROOMS), st.sampled_from(ROOMS), st.sampled_from(FORMS))
def test_an_import_is_refused_exactly_where_it_leads_upwards(importer, imported, form):
  name = f"{importer}.module"
  tree = ast.parse(form.format(imported))
  found = list(_bad_imports(name, imports(name, {name: Path("module.py")}, tree)))
  assert bool(found) == (LEVELS[importer] < LEVELS[imported])
