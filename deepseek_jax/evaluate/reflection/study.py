"""A model's reflection measured: its completions traced, branched, counted, and compared."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.figures import Figure
from deepseek_jax.evaluate.reflection import measures
from deepseek_jax.evaluate.reflection.counterfactual import Branch, branch_each, closing_of, effects
from deepseek_jax.evaluate.reflection.turns import Trace, trace_each
from deepseek_jax.tasks.code.task import Code
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import Weights


@dataclasses.dataclass(frozen=True)
class Subject:
  """One model's completions and what was found in them."""

  stage: str
  evaluation: Evaluation
  traces: Sequence[Sequence[Trace]]  # by problem and sample
  counts: measures.Counts
  branches: Sequence[Branch] = ()
  closing: str = ""  # opened the answer where a thought was cut

  def figures(self) -> list[Figure]:
    """Its own: rates, and the effects of its branches."""
    own = measures.levels(self.stage, self.evaluation, self.counts)
    own += [f for f in self.evaluation.figures(self.stage) if f["metric"] == "unjudged"]
    return own + effects(self.stage, self.evaluation, self.branches)

  def over(self, base: "Subject") -> list[Figure]:
    """Its rates less the base's, over the same problems, as they are and at equal length."""
    self.evaluation.gain_over(base.evaluation)  # refuses what cannot be compared
    return measures.gains(self.stage, base.stage, self.evaluation, self.counts, base.counts)

  def records(self) -> Iterator[dict[str, Any]]:
    """Every completion with its candidates, reflection words and branches, ready for JSON."""
    branched: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for branch in self.branches:
      found = {"text": branch.text, "cut": branch.cut, "correct": branch.correct}
      branched.setdefault((branch.problem, branch.sample), {})[branch.arm] = found
    samples = self.evaluation.protocol.samples
    for i, record in enumerate(self.evaluation.records()):
      p, j = divmod(i, samples)
      trace = self.traces[p][j]
      yield {
        "stage": self.stage,
        **record,
        "candidates": [
          {**dataclasses.asdict(c), "right": right}
          for c, right in zip(trace.candidates, trace.right, strict=True)
        ],
        "reflection": [word._asdict() for word in trace.words],
        "turns": [turn._asdict() for turn in trace.turns],
        "branches": branched.get((p, j), {}),
      }


def study(
  stage: str,
  engine: Engine,
  weights: Weights,
  tokenizer: Tokenizer,
  task: Task,
  evaluation: Evaluation,
  form: str,
  branches: bool = True,
  closing: str = "",
  word: str = "",
) -> Subject:
  """An evaluated model's completions traced and counted, and branched unless that is not wanted.

  `form` is `turns.answer_form`'s of all models that are to be compared; `closing` and `word` are
  those of `counterfactual.branch_each`, by default what `counterfactual.closing_of` finds and the
  language's word to wait.
  """
  traces = trace_each(task, evaluation, form)
  counts = measures.count(evaluation, traces)
  if not branches:
    return Subject(stage, evaluation, traces, counts)
  closing = closing or closing_of(evaluation)
  found = branch_each(engine, weights, tokenizer, task, evaluation, traces, closing, word)
  return Subject(stage, evaluation, traces, counts, found, closing)


def require_answers(task: Task) -> None:
  """ConfigError for a task of programs, of which a thought holds no answers to be judged."""
  require(
    not isinstance(task, Code),
    f"{task.name} asks for programs, and reflection is read from the answers within a thought; "
    "use a task whose answers are numbers or words.",
  )
