"""How every stage is measured: greedy, T = 0.6 and T = 1 on held-out problems, the same for all."""

from deepseek_jax.evaluate.benchmark import judge_of, open_task
from deepseek_jax.evaluate.evaluation import (
  Evaluation,
  Protocol,
  content_of,
  evaluate_each,
  standard_protocols,
)
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.recipe.origins import Origin
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import Weights


def protocol_of(config: R1Config, origin: Origin) -> Protocol:
  """What stages of one origin are measured by; only the form of the prompts may differ."""
  settings, task = config.evaluation, open_task(config.task)
  return Protocol(
    benchmark=config.task,
    problems=settings.problems,
    samples=settings.samples,
    max_new=settings.max_new,
    template=settings.template or origin.form,
    judge=judge_of(task),
    content=content_of(task),
    seed=config.seed,
  )


def measured(
  machine: Machinery, weights: Weights, origin: Origin, task: Task, protocol: Protocol
) -> list[Evaluation]:
  """The three evaluations of a model."""
  protocols = standard_protocols(protocol)
  return evaluate_each(machine.engine, weights, origin.tokenizer, task, protocols)
