"""Runs a program that kills itself, or a worker of its scorers' pool, inside a part of its work.

  python -m tests.dying PART CALL SECONDS MODULE ARGUMENTS...

It dies by SIGKILL in the CALL-th call of the part, at most SECONDS after that began: by a thread's
timer where the part lasts as long, else where it ends. Parts are rollout (while it samples),
reward, update, save (while a checkpoint is written in the background), and worker: there it is the
process of a scorer that is killed, with what it was given to judge, in every CALL-th gift.
"""

import functools
import itertools
import os
import runpy
import signal
import sys
import threading

PARTS = ("rollout", "reward", "update", "save", "worker")


def main() -> None:
  """Arms the program, and runs it."""
  part, call, seconds, module, *arguments = sys.argv[1:]
  _arm(part, int(call), float(seconds))
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name="__main__")


def _arm(part: str, call: int, seconds: float) -> None:
  from deepseek_jax.decode.engine import SlotEngine
  from deepseek_jax.rl import completions, trainer
  from deepseek_jax.tasks import workers
  from deepseek_jax.train.checkpoint import Checkpointer

  dying = functools.partial(_dying, call=call, seconds=seconds)
  match part:
    case "rollout":
      generate, inside = dying(SlotEngine.generate), threading.Event()

      def roll_out(*args, _roll_out=trainer.roll_out, **named):
        inside.set()
        try:
          return _roll_out(*args, **named)
        finally:
          inside.clear()

      def either(*args, _generate=SlotEngine.generate, **named):
        return (generate if inside.is_set() else _generate)(*args, **named)

      trainer.roll_out, SlotEngine.generate = roll_out, either
    case "reward":
      completions.score_dialogues = dying(completions.score_dialogues)
    case "update":
      trainer.Reinforcement.step = dying(trainer.Reinforcement.step)
    case "save":
      Checkpointer.save = dying(Checkpointer.save, behind=True)
    case "worker":
      workers._Process.give = _killing(workers._Process.give, call)


def _dying(function, call: int, seconds: float, behind: bool = False):
  """The function, in whose CALL-th call the process ends; `behind`: or within SECONDS after it."""
  calls = itertools.count(1)

  def dies(*args, **named):
    if next(calls) != call:
      return function(*args, **named)
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()
    result = function(*args, **named)
    if not behind:
      _end()
    return result

  return dies


def _killing(give, every: int):
  """Sends items to a worker and then kills it, in every so manieth call, while it judges them."""
  calls = itertools.count(1)

  def gives(process, items, pickled):
    give(process, items, pickled)
    if next(calls) % every == 0:
      print("killed a worker", file=sys.stderr, flush=True)
      os.killpg(process._popen.pid, signal.SIGKILL)

  return gives


def _end() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
  main()
