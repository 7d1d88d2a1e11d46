"""Kills a training program with SIGKILL at random moments, and says whether it mattered.

The program must be resumable by the same command and keep its runs as experiments/ do: any number
of metrics.jsonl and checkpoints/ under one workdir.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from deepseek_jax.recipe import ledger
from deepseek_jax.recipe.digest import weights_digest
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.metrics import WALL_CLOCK, read_metrics

ROOT = Path(__file__).parents[1]


def program_environment(cache: Path | None) -> dict[str, str]:
  """Of a program with one device and a cache of compiled steps, by default the user's."""
  own = {} if cache is None else {"JAX_COMPILATION_CACHE_DIR": str(cache)}
  return {**os.environ, "JAX_PLATFORMS": "cpu", **own}


def start(module: str, arguments: list[str], cache: Path | None) -> subprocess.Popen[str]:
  """Starts `python -m module arguments` in the root of the repository."""
  return subprocess.Popen(
    [sys.executable, "-m", module, *arguments],
    cwd=ROOT,
    env=program_environment(cache),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module: str, arguments: list[str], cache: Path | None, status: int = 0) -> str:
  """Runs a program to its end, checks its status, and returns its standard error."""
  process = start(module, arguments, cache)
  _, errors = process.communicate(timeout=900)
  assert process.returncode == status, f"status {process.returncode}, not {status}: {errors}"
  return errors


def run_with_kills(
  module: str,
  arguments: list[str],
  workdir: Path,
  cache: Path | None,
  records: int,
  kills: int,
  seed: int,
) -> int:
  """Runs a program to its end through `kills` kills, and returns how many happened.

  The first comes at a random moment of the start, the others once a random number of the
  `records` that an undisturbed run logs is there, and up to a twentieth of a second later. A
  program that ends before its kill is not killed any more.
  """
  rng = random.Random(seed)
  moments = sorted(rng.randrange(1, max(2, records * 4 // 5)) for _ in range(kills - 1))
  happened = 0
  for moment in [0, *moments]:
    process = start(module, arguments, cache)
    delay = rng.uniform(0.0, 8.0) if moment == 0 else rng.uniform(0.0, 0.05)
    while process.poll() is None and _lines(workdir) < moment:
      time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is not None:
      break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    happened += 1
  run(module, arguments, cache)
  return happened


def assert_same_outcome(workdir: Path, undisturbed: Path) -> None:
  """Equal final weights, bit for bit, and equal records but for wall-clock fields."""
  logs = sorted(p.relative_to(undisturbed) for p in undisturbed.rglob("metrics.jsonl"))
  assert logs and logs == sorted(p.relative_to(workdir) for p in workdir.rglob("metrics.jsonl"))
  for log in logs:
    assert _records(workdir / log) == _records(undisturbed / log), log
  saved = (p.parent for p in undisturbed.rglob("checkpoints/**/weights"))  # .../STEP/weights
  runs = sorted({p.parent.relative_to(undisturbed) for p in saved})
  assert runs
  for path in runs:
    found, wanted = load_weights(workdir / path), load_weights(undisturbed / path)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def trajectory_hash(workdir: Path) -> str:
  """SHA-256 of a recipe's run: every stage's steps, figures, ledger and weights, not its clock."""
  digest, log = hashlib.sha256(), workdir / "metrics.jsonl"
  by_stage = sorted(_records(log), key=lambda record: (record["stage"], record["step"]))
  digest.update(json.dumps(by_stage, sort_keys=True).encode())
  for path in sorted((workdir / "stages").glob("*.json")):
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in ledger.WALL_CLOCK:
      del record["entry"][name]
    weights = weights_digest(load_weights(workdir / "checkpoints" / path.stem))
    assert weights == record["entry"]["weights"]
    digest.update(json.dumps(record, sort_keys=True).encode())
  return digest.hexdigest()


def _records(path: Path) -> list[dict]:
  return [
    {name: value for name, value in record.items() if name not in WALL_CLOCK}
    for record in read_metrics(path)
  ]


def _lines(workdir: Path) -> int:
  """Records so far. Checkpoints come and go while this looks, so it does not look there."""
  count = 0
  for folder, inner, files in os.walk(workdir):
    inner[:] = [name for name in inner if name != "checkpoints"]
    if "metrics.jsonl" in files:
      count += (Path(folder) / "metrics.jsonl").read_bytes().count(b"\n")
  return count
