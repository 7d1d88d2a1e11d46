"""The running Python's own standard library: a corpus that every machine has.

Each module is two documents, its source and its docstrings (prose). About one module in twenty,
by a hash of its path, is held out. What the corpus holds depends on the Python version.
"""

import ast
import sysconfig
import tokenize
from pathlib import Path

from deepseek_jax.data.document import Document
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.task import Split

_SKIPPED = ("site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__")
_LARGEST = 200_000  # bytes; larger modules are tables
_HELD_OUT_PERCENT = 5


class StdlibSource:
  """Documents `2i` and `2i + 1` are the source and the docstrings of module `i`.

  A module without docstrings, or one that does not parse, gives a document without text.
  """

  def __init__(self, split: Split = "train"):
    root = Path(sysconfig.get_paths()["stdlib"])
    self.root = root
    self._files = [
      file
      for file in sorted(root.rglob("*.py"))
      if not set(_SKIPPED) & set(file.relative_to(root).parts)
      and 0 < file.stat().st_size <= _LARGEST
      and split_of_text(file.relative_to(root).as_posix(), _HELD_OUT_PERCENT) == split
    ]

  @property
  def files(self) -> list[Path]:
    """The modules' files."""
    return self._files

  def __len__(self) -> int:
    return 2 * len(self._files)

  def __getitem__(self, index: int) -> Document:
    module, prose = divmod(int(index), 2)
    source = _read(self._files[module])
    return Document(_docstrings(source) if prose else source)


def _read(file: Path) -> str:
  """The source in the encoding that it declares; nothing if that is not what it is in."""
  try:
    with tokenize.open(file) as lines:
      return lines.read()
  except (SyntaxError, UnicodeDecodeError):
    return ""


def _docstrings(source: str) -> str:
  """All docstrings in their order, each function's or class's under its name."""
  try:
    tree = ast.parse(source)
  except (SyntaxError, ValueError):
    return ""
  parts = []
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
      text = ast.get_docstring(node)
      if text:
        parts.append(text if isinstance(node, ast.Module) else f"{node.name}\n{text}")
  return "\n\n".join(parts)
