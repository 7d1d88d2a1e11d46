"""How fast verifiers judge, and how often they are right about Math-Verify's own test cases."""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.tasks.reasoning_gym import ReasoningGym
from deepseek_jax.tasks.scoring import score_each
from deepseek_jax.tasks.task import Problem, Task
from experiments.benchmarks.timing import take_turns

_ANSWERS = 4000
_FORMULAS = (("\\sqrt{N}", "N^{0.5}"), ("x+N", "N+x"), ("\\{N, 1\\}", "\\{1, N\\}"), ("N", "2N"))


def rates(rounds: int) -> dict[str, Any]:
  """Answers a second of reasoning-gym's chain_sum and of formulas, and seconds to start."""
  gym = ReasoningGym("chain_sum")
  sums = [gym.sample("train", index, 0) for index in range(100)] * (_ANSWERS // 100)
  replies = [f"<think> so </think> <answer> {p.answer} </answer>" for p in sums]
  pairs = [
    [side.replace("N", str(n)) for side in _FORMULAS[n % len(_FORMULAS)]]
    for n in range(2, 2 + _ANSWERS // 4)
  ]
  formulas = [Problem("?", "formulas", f"{n}", answer=pair[0]) for n, pair in enumerate(pairs)]
  boxes = [f"\\boxed{{{given}}}" for _, given in pairs]
  cases: dict[str, tuple[Task, list[Problem], list[str]]] = {
    "reasoning_gym:chain_sum": (gym, sums, replies),
    "exact": (FileBenchmark("formulas", tuple(formulas), "exact"), formulas, boxes),
    "math-verify": (FileBenchmark("formulas", tuple(formulas), "math-verify"), formulas, boxes),
  }
  starts = {name: _seconds(task, p[:1], t[:1]) for name, (task, p, t) in cases.items()}
  turns = {name: lambda case=case: _seconds(*case) for name, case in cases.items()}
  return {
    name: {
      "start": starts[name],
      "per_second": sorted(len(cases[name][1]) / seconds for seconds in found),
    }
    for name, found in take_turns(turns, rounds).items()
  }


def _seconds(task: Task, problems: list[Problem], texts: list[str]) -> float:
  began = time.perf_counter()
  score_each(task, problems, texts)
  return time.perf_counter() - began


def agreement(folder: str) -> dict[str, dict[str, list[int]]]:
  """Of Math-Verify's cases, accepted and all, right and wrong ones, by each judge.

  `folder` is the source package of Math-Verify, whose tests are parametrised by gold, pred and
  expected. `strict` reads an answer in a box or, where there is none, all of the text.
  """
  cases = list(_cases(folder))
  require(bool(cases), f"{folder} has no tests of Math-Verify in tests/; unpack its source there.")
  problems = [Problem("?", "cases", f"{n}", answer=g, data=g) for n, (g, _, _) in enumerate(cases)]
  texts = [text for _, text, _ in cases]
  found: dict[str, list[bool]] = {"Math-Verify": [_math_verify(g, t) for g, t, _ in cases]}
  for judge in ("exact", "math-verify"):
    task = FileBenchmark("cases", tuple(problems), judge)
    boxed = [t if "boxed" in t else f"<think></think> <answer> {t} </answer>" for t in texts]
    found[f"{judge}, strict"] = [s.correct == 1 for s in task.score_each(problems, boxed)]
    scores = task.score_each(problems, texts)
    found[f"{judge}, lenient"] = task.lenient_each(problems, texts, scores)
  return {
    name: {
      kind: [sum(v for v, (_, _, e) in zip(verdicts, cases, strict=True) if e == right),
             sum(e == right for _, _, e in cases)]
      for kind, right in (("right", True), ("wrong", False))
    }
    for name, verdicts in found.items()
  }  # fmt: skip


def _math_verify(gold: str, text: str) -> bool:
  """Math-Verify by itself, as its README has it."""
  verifier: Any = importlib.import_module("math_verify")
  return bool(verifier.verify(verifier.parse(gold), verifier.parse(text)))


def _cases(folder: str) -> Iterator[tuple[str, str, bool]]:
  """Each case's gold answer, text and whether the text is right."""
  root = Path(folder)
  sys.path.insert(0, os.path.abspath(root))
  for path in sorted(root.glob("tests/test_*.py")):
    module = importlib.import_module(f"tests.{path.stem}")
    for test in vars(module).values():
      for names, values in _parameters(test):
        if {"gold", "pred", "expected"} <= set(names):
          for value in values:
            case = dict(zip(names, value, strict=True))
            yield case["gold"], case["pred"], bool(case["expected"])


def _parameters(test: Callable[..., Any]) -> Iterator[tuple[list[str], list[Any]]]:
  """What pytest gives a test, by name."""
  for mark in getattr(test, "pytestmark", []):
    if mark.name == "parametrize":
      names, values = mark.args
      yield (
        ([n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)),
        values,
      )
