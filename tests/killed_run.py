"""Must-show: a graph that is killed in every part of its work ends as the one that was not.

  python -m tests.killed_run --kills=10

runs tests/r1_killed.py undisturbed, and then for each part (see `dying.py`) in a workdir of its own
with so many kills; it prints both trajectories' hashes, and ends with status 1 where they differ.
"""

import random
import signal
import sys
import tempfile
from pathlib import Path

from absl import app, flags, logging

from tests import killing
from tests.dying import PARTS

MODULE, CONFIG = "experiments.r1", "--config=tests/r1_killed.py"
SECONDS = {"rollout": 0.3, "reward": 0.05, "update": 0.3, "save": 0.1}
CALLS = {"rollout": 7, "reward": 7, "update": 7, "save": 12}  # at most: ten kills reach far


def undisturbed(workdir: Path) -> str:
  """Runs the graph to its end; its trajectory's hash."""
  killing.run(MODULE, [CONFIG, f"--workdir={workdir}"], None)
  return killing.trajectory_hash(workdir)


def killed(workdir: Path, part: str, kills: int, seed: int = 0) -> tuple[str, int]:
  """Runs it with kills in a part; the hash of what it then comes to, and how many kills hit."""
  if part == "worker":
    errors = killing.run("tests.dying", _arguments(part, 7, 0.0, workdir), None)
    return killing.trajectory_hash(workdir), errors.count("killed a worker")
  rng, happened = random.Random(f"{part}/{seed}"), 0
  while happened < kills:
    call, seconds = rng.randint(1, CALLS[part]), rng.uniform(0, SECONDS[part])
    process = killing.start("tests.dying", _arguments(part, call, seconds, workdir), None)
    _, errors = process.communicate(timeout=900)
    if process.returncode == 0:
      break  # it came to its end before that call
    assert process.returncode == -signal.SIGKILL, errors
    happened += 1
  killing.run(MODULE, [CONFIG, f"--workdir={workdir}"], None)
  return killing.trajectory_hash(workdir), happened


def _arguments(part: str, call: int, seconds: float, workdir: Path) -> list[str]:
  return [part, str(call), f"{seconds:.4f}", MODULE, CONFIG, f"--workdir={workdir}"]


def main(_: list[str]) -> None:
  """Prints a line for each part."""
  logging.set_verbosity(logging.FATAL)
  with tempfile.TemporaryDirectory() as folder:
    wanted = undisturbed(Path(folder) / "undisturbed")
    print(f"undisturbed: {wanted}", flush=True)
    same = True
    for part in flags.FLAGS.parts:
      found, happened = killed(Path(folder) / part, part, flags.FLAGS.kills)
      same &= found == wanted
      told = "the same" if found == wanted else "ANOTHER"
      print(f"{part}: {happened} kills, {found}, {told}", flush=True)
  sys.exit(0 if same else 1)


if __name__ == "__main__":
  flags.DEFINE_integer("kills", 10, "How often each part is killed.")
  flags.DEFINE_list("parts", list(PARTS), "Which.")
  app.run(main)
