"""Finding a task by its name: ours, reasoning-gym's, programs to write, or one of the user's."""

import importlib
from collections.abc import Callable
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.arithmetic import Arithmetic
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.chosen import Chosen, load_chosen
from deepseek_jax.tasks.code.task import Code, load_code
from deepseek_jax.tasks.countdown import Countdown
from deepseek_jax.tasks.guarded import Guarded, written_policies
from deepseek_jax.tasks.guess import Guess
from deepseek_jax.tasks.isolated import Isolated
from deepseek_jax.tasks.mixture import mini_mixture, mixed, split_mixture, tiny_mixture
from deepseek_jax.tasks.prompts import load_prompts
from deepseek_jax.tasks.reasoning_gym import ReasoningGym
from deepseek_jax.tasks.settings import make, split_settings
from deepseek_jax.tasks.task import Problem, Task

BUILT_IN: dict[str, Callable[[], Task]] = {
  "mini": mini_mixture,
  "tiny": tiny_mixture,
  "countdown": Countdown,
  "chain_sum": ChainSum,
  "arithmetic": Arithmetic,
  "guess": Guess,
  "guarded": Guarded,
  "policies": written_policies,
}
_FORMS = (
  f"{', '.join(BUILT_IN)}, reasoning_gym:DATASET, code:FILE.jsonl, chosen:FILE.jsonl, "
  "prompts:FILE.jsonl, "
  "[isolated:]package.module:name or a mixture like 0.6 * countdown + 0.4 * chain_sum"
)


def load_task(spec: str, inner: Callable[[str], Task] | None = None) -> Task:
  """The task called `spec`; `inner` finds the tasks that others are made of, by default as this.

  Args:
    spec: a name in BUILT_IN; `reasoning_gym:DATASET` for any dataset of reasoning-gym;
      `code:FILE.jsonl` for programming problems, see `code/problem_file.py`; `chosen:FILE.jsonl`
      for what a preflight chose, see `chosen.py`; `prompts:FILE.jsonl` for questions that a reward
      model judges, see `prompts.py`; `package.module:name`, a task object or a class or function
      that makes one, whose verifier runs in processes of its own after `isolated:`; or several of
      them, weighted: `0.6 * countdown + 0.4 * chain_sum`. Tasks of ours and of reasoning-gym take
      their own settings in brackets: `chain_sum(min_terms=2, max_terms=3)`.

  Raises:
    ConfigError: there is no such task, or it has not the methods of one.
  """
  parts = split_mixture(spec)
  if len(parts) > 1:
    return mixed(spec, [(weight, (inner or load_task)(name)) for weight, name in parts])
  built_in, settings = split_settings(spec) if _is_built_in(spec) else ("", {})
  if built_in:
    return make(spec, BUILT_IN[built_in], settings)
  module_name, colon, attribute = spec.partition(":")
  if not colon or not module_name or not attribute:
    raise ConfigError(f"task {spec!r} is unknown; use {_FORMS}.")
  if module_name == "reasoning_gym":
    dataset, settings = split_settings(attribute)
    form = {"template": settings.pop("template")} if "template" in settings else {}
    return ReasoningGym(dataset, tuple(sorted(settings.items())), **form)
  if module_name == "code":
    return load_code(attribute)
  if module_name == "chosen":
    return load_chosen(attribute, inner or load_task)
  if module_name == "prompts":
    return load_prompts(attribute)
  if module_name == "isolated":
    task = load_task(attribute)
    return (
      task
      if isinstance(task, (Isolated, ReasoningGym, Code, Chosen))
      else Isolated(task, attribute)
    )
  return _user_task(spec, module_name, attribute)


def _is_built_in(spec: str) -> bool:
  """Whether a name, without its settings, is one of ours."""
  return spec.partition("(")[0].strip() in BUILT_IN


def calls_of(spec: str) -> Callable[[str, Problem, Any], Any]:
  """What a process of its own calls for `isolated.Isolated`: a reply, or the figures of a score."""
  task = load_task(spec)

  def call(method: str, problem: Problem, said: Any) -> Any:
    value = getattr(task, method)(problem, said)
    return value if method == "reply" else (value.correct, value.format, value.language)

  return call


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
