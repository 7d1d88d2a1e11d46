"""Finding a task by its name: ours, reasoning-gym's, programs to write, or one of the user's."""

import importlib
from collections.abc import Callable

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.code.task import Code, load_code
from deepseek_jax.tasks.countdown import Countdown
from deepseek_jax.tasks.isolated import Isolated
from deepseek_jax.tasks.mixture import mini_mixture, mixed, split_mixture, tiny_mixture
from deepseek_jax.tasks.prompts import load_prompts
from deepseek_jax.tasks.reasoning_gym import ReasoningGym
from deepseek_jax.tasks.task import Problem, Task

BUILT_IN: dict[str, Callable[[], Task]] = {
  "mini": mini_mixture,
  "tiny": tiny_mixture,
  "countdown": Countdown,
  "chain_sum": ChainSum,
}
_FORMS = (
  f"{', '.join(BUILT_IN)}, reasoning_gym:DATASET, code:FILE.jsonl, prompts:FILE.jsonl, "
  "[isolated:]package.module:name or a mixture like 0.6 * countdown + 0.4 * chain_sum"
)


def load_task(spec: str) -> Task:
  """The task called `spec`.

  Args:
    spec: `mini`, `tiny`, `countdown`, `chain_sum`; `reasoning_gym:DATASET` for any dataset of
      reasoning-gym; `code:FILE.jsonl` for programming problems, see `code/problem_file.py`;
      `prompts:FILE.jsonl` for questions that a reward model judges, see `prompts.py`;
      or `package.module:name`, a task object or a class or function that makes one,
      whose verifier runs in processes of its own after `isolated:`; or several of them, weighted:
      `0.6 * countdown + 0.4 * chain_sum`.

  Raises:
    ConfigError: there is no such task, or it has not the methods of one.
  """
  if spec in BUILT_IN:
    return BUILT_IN[spec]()
  parts = split_mixture(spec)
  if len(parts) > 1:
    return mixed(spec, [(weight, load_task(name)) for weight, name in parts])
  module_name, colon, attribute = spec.partition(":")
  if not colon or not module_name or not attribute:
    raise ConfigError(f"task {spec!r} is unknown; use {_FORMS}.")
  if module_name == "reasoning_gym":
    return ReasoningGym(attribute)
  if module_name == "code":
    return load_code(attribute)
  if module_name == "prompts":
    return load_prompts(attribute)
  if module_name == "isolated":
    task = load_task(attribute)
    return task if isinstance(task, (Isolated, ReasoningGym, Code)) else Isolated(task, attribute)
  return _user_task(spec, module_name, attribute)


def figures_of(spec: str) -> Callable[[Problem, str], tuple[float, float, float]]:
  """What a process of its own calls for `isolated.Isolated`: the figures of the task's score."""
  task = load_task(spec)

  def figures(problem: Problem, text: str) -> tuple[float, float, float]:
    score = task.score(problem, text)
    return score.correct, score.format, score.language

  return figures


def _user_task(spec: str, module_name: str, attribute: str) -> Task:
  """Imports the user's object and makes sure that it is a task."""
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise ConfigError(
      f"task {spec!r}: module {module_name!r} cannot be imported ({error})."
    ) from error
  if not hasattr(module, attribute):
    raise ConfigError(f"task {spec!r}: module {module_name!r} has no {attribute!r}.")
  found = getattr(module, attribute)
  if isinstance(found, type) or (callable(found) and not isinstance(found, Task)):
    try:
      found = found()
    except Exception as error:  # whatever a stranger's code raises
      raise ConfigError(
        f"task {spec!r}: calling {attribute!r} without arguments failed ({error!r:.200})."
      ) from error
  if not isinstance(found, Task):
    missing = [name for name in ("name", "sample", "score") if not hasattr(found, name)]
    raise ConfigError(f"task {spec!r} is not a task: it lacks {', '.join(missing)}.")
  return found
