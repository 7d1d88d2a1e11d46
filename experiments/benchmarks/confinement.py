"""What a program costs that runs in the sandbox, beside an interpreter that runs nothing."""

import statistics
import subprocess
import time
from collections.abc import Callable

from deepseek_jax.config import require
from deepseek_jax.tasks.code.bubblewrap import interpreter
from deepseek_jax.tasks.code.cases import Assertions
from deepseek_jax.tasks.code.judge import Outcome, judge
from deepseek_jax.tasks.code.sandbox import sandbox
from experiments.benchmarks.timing import take_turns

_RUNS = 20  # of a turn
_PROMPT = "def f(n):\n  pass\n"
_TESTS = Assertions(("f",), "assert f(1) == 2", setup=_PROMPT, prompt=_PROMPT)


def measure(rounds: int) -> dict[str, dict[str, float]]:
  """Milliseconds of one run: the median of all, and the least tenth's bound."""
  box = sandbox()

  def empty() -> None:
    require(box.run("").status == 0, "The sandbox does not run an empty program; see its tests.")

  def tests() -> None:
    verdict = judge(box, _TESTS, "def f(n): return n + 1")
    require(verdict.outcome is Outcome.PASS, f"A right program is judged {verdict}; see its tests.")

  def bare() -> None:
    subprocess.run([interpreter(), "-I", "-S", "-B", "-c", ""], check=True)

  times: dict[str, list[float]] = {}
  parts = {"interpreter alone": bare, "empty program": empty, "function and tests": tests}
  turns = {n: lambda n=n, run=run: _turn(run, times.setdefault(n, [])) for n, run in parts.items()}
  take_turns(turns, rounds)
  return {
    name: {"median": statistics.median(found), "tenth": sorted(found)[len(found) // 10]}
    for name, found in times.items()
  }


def _turn(run: Callable[[], None], times: list[float]) -> float:
  """Runs it some times, keeps the milliseconds of each, and returns the seconds of all."""
  began = time.perf_counter()
  for _ in range(_RUNS):
    start = time.perf_counter()
    run()
    times.append(1e3 * (time.perf_counter() - start))
  return time.perf_counter() - began
