"""What would go wrong in a graph, found before anything runs.

Only configs, tokenizers, tasks and files are opened, no weights: a stage in the tenth hour must not
find that its task, its file or a package is missing, or that a prompt does not fit.
"""

from collections.abc import Sequence
from pathlib import Path

from deepseek_jax.by_name import model_path
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import ask
from deepseek_jax.data.document import make_sample
from deepseek_jax.data.problems import ProblemSource
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.data.written import read_written
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.evaluate.evaluation import draw_problems
from deepseek_jax.recipe.config import (
  GivenStage,
  PretrainStage,
  R1Config,
  ReinforceStage,
  TuneStage,
)
from deepseek_jax.recipe.graph import Node
from deepseek_jax.recipe.measuring import protocol_of
from deepseek_jax.recipe.origins import Origin
from deepseek_jax.rl.learned_reward import require_tasks
from deepseek_jax.tasks.code.sandbox import sandbox
from deepseek_jax.tasks.code.task import Code
from deepseek_jax.tasks.environment import check_turns, refuse_turns
from deepseek_jax.tasks.mixture import Mixture
from deepseek_jax.train.start import read_architecture


def check(config: R1Config, graph: Sequence[Node], origins: dict[str, Origin]) -> None:
  """ConfigError, in a sentence that names the stage, unless every stage can run."""
  config.mesh.check_rows("engine_batch", config.engine_batch)
  for node in graph:
    settings, origin = getattr(config, node.stage), origins[node.stage]
    try:
      match settings:
        case PretrainStage():
          _pretraining(config, settings, origin)
        case TuneStage():
          _tuning(config, node, settings, origins)
        case ReinforceStage():
          _reinforcement(config, settings, origin)
        case GivenStage():
          read_architecture(settings.init)
      _measured(config, origin)
    except ConfigError as error:
      told = str(error).replace("protocol.", "evaluation.")
      raise ConfigError(f"{node.stage}: {told}") from error


def _pretraining(config: R1Config, stage: PretrainStage, origin: Origin) -> None:
  _fits("length", stage.length, origin)
  config.mesh.check_rows("batch", stage.batch)
  task = open_task(config.task_of(stage))
  refuse_turns(task, "the recipe of R1")
  first = ProblemSource(task, 0)[0]  # of a task with worked solutions
  make_sample(origin.tokenizer, first)


def _tuning(config: R1Config, node: Node, stage: TuneStage, origins: dict[str, Origin]) -> None:
  own = origins[node.stage]
  _fits("length", stage.length, own)
  config.mesh.check_rows("batch", stage.batch)
  for name, written in stage.written.items():
    require(
      node.source is not None or not written.share,
      f"{name}.share is {written.share}, but nothing is sampled of which the rest could be; leave "
      "it out.",
    )
    read_written(written, own.tokenizer, own.form, stage.length)
  if node.source is None:
    return
  source = origins[node.source]
  task, samples = config.task_of(stage), stage.samples
  longest = _asked(task, source.tokenizer, samples.template) + samples.max_new
  _fits(f"samples.max_new {samples.max_new} and a prompt make a sample that", longest, source)
  learnt = _asked(task, own.tokenizer, own.form)
  require(
    learnt < stage.length,
    f"its first prompt has {learnt} tokens and leaves no room for an answer in its length, "
    f"{stage.length}; raise it.",
  )


def _reinforcement(config: R1Config, stage: ReinforceStage, origin: Origin) -> None:
  rollout = stage.rl.rollout
  check_turns(open_task(config.task_of(stage)), rollout.turns, "rl.rollout.turns")
  _fits("rl.rollout.width", rollout.width, origin)
  config.mesh.check_rows("rl.rollout.rows", rollout.rows)
  _asked(config.task_of(stage), origin.tokenizer, rollout.template)
  learned = rollout.reward.learned
  if learned.weight:
    require_tasks(learned, open_task(config.task_of(stage)))
    context = _judges(learned.model)
    require(
      rollout.width < context,
      f"rl.rollout.width is {rollout.width}; the reward model in {learned.model} reads at most "
      f"{context - 1} tokens. Lower it, or name another reward.learned.model.",
    )


def _judges(model: str) -> int:
  """The context of a reward model, which is a workdir's; ConfigError if there is none."""
  folder = model_path(model)
  found = isinstance(folder, Path) and (folder / "checkpoints").is_dir()
  require(
    found,
    f"rl.rollout.reward.learned.model {model!r} is no workdir with checkpoints; train one with "
    "experiments.reward_model.",
  )
  return read_architecture(folder).max_context


def _measured(config: R1Config, origin: Origin) -> None:
  """The evaluation, all of whose prompts are known."""
  protocol = protocol_of(config, origin)
  problems = draw_problems(open_task(config.task), protocol)
  asked = (ask(origin.tokenizer, problem.prompt, protocol.template) for problem in problems)
  longest = max(len(prompt.tokens) for prompt in asked) + protocol.max_new
  _fits(f"evaluation.max_new {protocol.max_new} and a prompt make a sample that", longest, origin)


def _asked(spec: str, tokenizer: Tokenizer, form: str) -> int:
  """How many tokens the first training prompt of a task has, whose answers can be judged here."""
  task = open_task(spec)
  refuse_turns(task, "the recipe of R1")
  if any(isinstance(part, Code) for part in (task.tasks if isinstance(task, Mixture) else [task])):
    sandbox()
  try:
    problem = task.sample("train", 0, 0)
  except IndexError as error:
    raise ConfigError(f"the task {spec!r} has no training problems; name another.") from error
  return len(ask(tokenizer, problem.prompt, form).tokens)


def _fits(what: str, length: int, origin: Origin) -> None:
  require(
    length <= origin.model.max_context,
    f"{what} is of {length} tokens, more than the context of config.{origin.field}, "
    f"{origin.model.max_context}; lower it.",
  )
