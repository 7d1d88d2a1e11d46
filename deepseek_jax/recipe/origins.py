"""What a stage has by the first of its line: an architecture, a tokenizer, a form to be asked in.

Stages of one line share them. Two lines, of a teacher and its student or of a model from outside,
may differ in all three; what passes between lines is text.
"""

import dataclasses
import functools

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.data.asking import own_form
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.config import GivenStage, R1Config, ReinforceStage, TuneStage
from deepseek_jax.recipe.graph import Node
from deepseek_jax.train.start import open_tokenizer


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a stage's model is and reads, from wherever its line began."""

  model: ModelConfig
  tokenizer: Tokenizer
  tokenizer_name: str  # as a config names it
  field: str  # of the config that says so
  form: str  # of `asking.ask`, in which the stage's model is asked


def origins(config: R1Config, graph: tuple[Node, ...]) -> dict[str, Origin]:
  """Of every stage. No weights are read.

  Raises:
    ConfigError: a model is missing, a tokenizer cannot be opened or has more ids than its model.
  """
  found: dict[str, Origin] = {}
  for node in graph:
    if node.start is None:
      found[node.stage] = _first(config, node)
      continue
    settings, before = getattr(config, node.stage), found[node.start]
    form = before.form
    if isinstance(settings, ReinforceStage):
      form = settings.rl.rollout.template
    elif isinstance(settings, TuneStage):
      form = settings.template or before.form
    found[node.stage] = dataclasses.replace(before, form=form)
  return found


def _first(config: R1Config, node: Node) -> Origin:
  """Of a stage that starts from no other."""
  settings = getattr(config, node.stage)
  if isinstance(settings, GivenStage):
    model, name, field = settings.model, settings.tokenizer, f"{node.stage}.init"
  else:
    given = getattr(config, node.model)
    require(
      given is not None,
      f"config.{node.stage} pre-trains a model, but config.{node.model} says not which; give its "
      f"fields or a preset, or a model from outside as config.{node.stage}.init.",
    )
    model, name, field = given, settings.tokenizer or config.tokenizer, node.model
  tokenizer = _opened(name)
  require(
    tokenizer.vocab_size <= model.vocab,
    f"config.{field} has a vocabulary of {model.vocab}, but the tokenizer {name!r} has "
    f"{tokenizer.vocab_size} ids; make that of the model at least as large.",
  )
  return Origin(model, tokenizer, name, field, own_form(tokenizer))


_opened = functools.cache(open_tokenizer)
