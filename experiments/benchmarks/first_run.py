"""The first start of the recipe, as a user meets it, and a second one that finds programs compiled.

Each is a process of its own in a workdir of its own; what it spent its time on is read from there.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.evaluate.results import read_results
from deepseek_jax.recipe.ledger import PARTS, seconds_by_part, total

COLUMNS = ("import", *PARTS, "rest", "total")
_MODULE = "experiments.r1"


def measure(config: str) -> dict[str, Any]:
  """Runs the recipe with an empty cache, then with another seed and what the first left in it."""
  require(
    Path(config).is_file(), f"--config={config} is no file; name one like configs/r1_tiny.py."
  )
  loading = _seconds([sys.executable, "-c", f"import {_MODULE}"])
  starts = {}
  with tempfile.TemporaryDirectory() as folder:
    for seed, name in enumerate(("empty cache", "same cache")):
      workdir = Path(folder) / str(seed)
      command = [sys.executable, "-m", _MODULE, f"--config={config}", f"--config.seed={seed}"]
      command += [f"--workdir={workdir}", f"--compilation_cache={folder}/cache"]
      wall = _seconds(command)
      ledger = read_results(workdir / "results.json")["ledger"]
      starts[f"{name}, seed {seed}"] = account(ledger, loading, wall)
  return starts


def account(ledger: Sequence[Mapping[str, Any]], loading: float, wall: float) -> dict[str, Any]:
  """COLUMNS in seconds, and programs, of a process of `wall` seconds that ran the whole recipe.

  `loading` are the seconds of Python and of imports. The rest is restoring, data, exports, tables.
  """
  parts = {part: seconds_by_part(ledger)[part] for part in PARTS}
  rest = wall - loading - sum(parts.values())
  programs = {name: total(ledger, name) for name in ("programs", "cached")}
  return {"import": loading, **parts, "rest": rest, "total": wall, **programs}


def table(starts: Mapping[str, Mapping[str, Any]]) -> str:
  """A line of seconds for each start, and one of their shares."""
  lines = [f"  {'seconds':22}" + "".join(f"{c:>11}" for c in (*COLUMNS, "programs", "cached"))]
  for name, found in starts.items():
    seconds = "".join(f"{found[c]:>11.1f}" for c in COLUMNS)
    shares = "".join(f"{found[c] / found['total']:>11.1%}" for c in COLUMNS)
    lines += [f"  {name:22}{seconds}{found['programs']:>11}{found['cached']:>11}"]
    lines += [f"  {'':22}{shares}"]
  return "\n".join(lines)


def _seconds(command: list[str]) -> float:
  """Runs a program, whose progress goes to standard error; ConfigError if it fails."""
  began = time.monotonic()
  status = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
  if status:
    raise ConfigError(f"{' '.join(command[1:])} ended with status {status}; see above.")
  return time.monotonic() - began
