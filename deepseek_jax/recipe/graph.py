"""Which stage starts from which, and learns from whose samples (2501.12948, figure 2, table 5).

  base --- r1_zero ~~> cold_start --- rl1 ~~> sft2 --- r1 ~~> distilled
    \\_________________/ \\_____________________/               /
  student_base ______________________________________________/__ student_rl

A line hands on weights, a wave samples. The cold start and the second SFT both begin at the base,
as the paper's do. That is `GRAPH`; `graph_of` is what a config makes of it: stages may be left out
or given from outside, and have other starts and sources.
"""

import dataclasses

from deepseek_jax.config import require
from deepseek_jax.recipe.config import (
  SEEDS_PER_RUN,
  GivenStage,
  PretrainStage,
  R1Config,
  TuneStage,
)

NONE = "none"  # the source of a stage that learns from files alone


@dataclasses.dataclass(frozen=True)
class Node:
  """A stage: the model it trains, where its weights come from, and whose samples it learns from."""

  stage: str
  model: str  # teacher | student
  start: str | None = None  # None: random weights, or a model from outside
  source: str | None = None


GRAPH = (
  Node("base", "teacher"),
  Node("r1_zero", "teacher", start="base"),
  Node("cold_start", "teacher", start="base", source="r1_zero"),
  Node("rl1", "teacher", start="cold_start"),
  Node("sft2", "teacher", start="base", source="rl1"),
  Node("r1", "teacher", start="sft2"),
  Node("student_base", "student"),
  Node("distilled", "student", start="student_base", source="r1"),
  Node("student_rl", "student", start="student_base"),
)
STAGES = tuple(node.stage for node in GRAPH)


def seed_of(config: R1Config, stage: str) -> int:
  """The seed of a stage: each draws its own problems."""
  return config.seed * SEEDS_PER_RUN + STAGES.index(stage)


def graph_of(config: R1Config) -> tuple[Node, ...]:
  """The stages of a config in an order in which they can run: that of `GRAPH`, where it can be.

  A stage is of the model that it starts from.

  Raises:
    ConfigError: there is no stage, or one starts from or samples a stage that is not there, or in
      a circle from itself; or learns from nothing.
  """
  waiting = [_node(config, node) for node in GRAPH if getattr(config, node.stage) is not None]
  require(bool(waiting), f"the config has no stage; give one of {', '.join(STAGES)}.")
  present = [node.stage for node in waiting]
  for node in waiting:
    _check(node, present, getattr(config, node.stage))
  done: dict[str, Node] = {}
  while waiting:
    able = [n for n in waiting if {n.start, n.source} <= {None, *done}]
    require(
      bool(able),
      f"the stages {', '.join(n.stage for n in waiting)} wait for one another; change a start or a "
      "source among them.",
    )
    node = able[0]
    waiting.remove(node)
    model = node.model if node.start is None else done[node.start].model
    done[node.stage] = dataclasses.replace(node, model=model)
  return tuple(done.values())


def _node(config: R1Config, node: Node) -> Node:
  """A stage as the config has it."""
  settings = getattr(config, node.stage)
  if isinstance(settings, GivenStage | PretrainStage):
    return Node(node.stage, node.model)
  start, source = settings.start or node.start, None
  if isinstance(settings, TuneStage):
    source = settings.source or node.source
    source = None if source == NONE else source
  return Node(node.stage, node.model, start, source)


def _check(node: Node, present: list[str], settings: object) -> None:
  """ConfigError unless what a stage starts from and samples is there."""
  for what, name in (("start", node.start), ("source", node.source)):
    if name is None:
      continue
    field, there = f"{node.stage}.{what}", ", ".join(n for n in present if n != node.stage)
    mend = f"; give config.{name}, or set config.{field} to " + (
      f"a stage that there is: {there}" if there else "one of those then given"
    )
    if what == "source":
      mend += f", or to {NONE}, with traces of its own in config.{node.stage}.traces.path"
    require(
      name in STAGES,
      f"config.{field} is {name!r}, which is no stage; the stages are {', '.join(STAGES)}.",
    )
    require(name in present, f"config.{field} is {name}, which is left out{mend}.")
  require(
    not isinstance(settings, TuneStage) or node.source is not None or bool(settings.written),
    f"config.{node.stage} has neither a source nor a file to learn from; set its source, or "
    f"config.{node.stage}.traces.path.",
  )
