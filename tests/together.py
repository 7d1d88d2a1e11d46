"""What a test has several processes do: meet, tell, vote, take steps, and in one of them a fault.

  python -m tests.together FAULT --coordinator=... --processes=N --process=I

The fault is that of process 1, or of all with "all errors". Each step has a collective.
"""

import sys
import time

import jax
from absl import app, flags

from deepseek_jax.config import ConfigError
from deepseek_jax.hosts import group, heartbeat
from deepseek_jax.hosts.vote import Vote

FLAGS = flags.FLAGS
BAD = 2


def main(arguments: list[str]) -> None:
  fault = " ".join(arguments[1:])
  patience = heartbeat.Patience(meeting=120, silence=FLAGS.silence, hang=25.0, slow=3.0)
  group.join(FLAGS.coordinator, FLAGS.processes, FLAGS.process, patience)
  _tell()
  vote = Vote()
  decided = [vote.by_any(FLAGS.process == 1 and step == 2) for step in range(5)]
  print("decided", decided, flush=True)
  for step in range(20 if fault == "slow" else 10_000):
    heartbeat.move(f"step {step}")
    vote.by_any(False)
    time.sleep(0.2)
    if step == 5:
      _fail(fault)
  group.part()
  print("parted", flush=True)


def _tell() -> None:
  """Something small, something not so small, and an error."""
  print("told", group.from_first(lambda: {"by": FLAGS.process}), flush=True)
  print("much", len(group.from_first(lambda: "x" * 10_000_000)), flush=True)
  try:
    group.from_first(lambda: _refuse())
  except ConfigError as error:
    print("refused", error, flush=True)
  group.same("number", 7)


def _refuse() -> None:
  raise ConfigError(f"process {FLAGS.process} refuses.")


def _fail(fault: str) -> None:
  """Process 1 fails in this way."""
  if fault == "all errors":
    group.fail("all the same.", BAD)
  if fault == "own errors":
    if FLAGS.process == 1:
      next(group._told)  # as if they had come to different places
    group.fail(f"that of {FLAGS.process}.", BAD)
  if FLAGS.process != 1:
    return
  match fault:
    case "error":
      group.fail("of its own.", BAD)
    case "hang":
      time.sleep(1000)
    case "slow":
      time.sleep(6.0)


def run() -> None:
  """Ends as the programs in experiments/ do."""
  try:
    app.run(main)
  except Exception as error:
    heartbeat.suspect()
    group.fail(f"{type(error).__name__}", 1)


if __name__ == "__main__":
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  flags.DEFINE_string("coordinator", None, "")
  flags.DEFINE_integer("processes", None, "")
  flags.DEFINE_integer("process", None, "")
  flags.DEFINE_integer("silence", 20, "")
  run()
  sys.exit(0)
