"""Running the graph: each stage trains, is evaluated, leaves a record; finished ones are skipped.

  W/checkpoints/STAGE/   the stage's checkpoints; none of a model from outside
  W/samples/STAGE.jsonl  what was sampled for a stage that learns from another
  W/rollouts/STAGE/      what was said and earned while it was reinforced
  W/stages/STAGE.json    its record, written last; once its curves are drawn, they are beside it
  W/metrics.jsonl        all stages' steps, each with its stage

Everything a stage does is a function of the configuration and its position, so a run that is
killed anywhere and started again ends with the same weights and figures.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.plan.flops import forward_flops
from deepseek_jax.recipe.checks import check
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import (
  GivenStage,
  PretrainStage,
  R1Config,
  ReinforceStage,
  TuneStage,
)
from deepseek_jax.recipe.course import Course
from deepseek_jax.recipe.digest import weights_digest
from deepseek_jax.recipe.graph import Node, graph_of, seed_of
from deepseek_jax.recipe.ledger import Entry, count
from deepseek_jax.recipe.lessons import Lessons, kept_or_drawn, lessons
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.recipe.measuring import measured, protocol_of
from deepseek_jax.recipe.origins import origins
from deepseek_jax.recipe.pretraining import pretraining
from deepseek_jax.recipe.record import Record, make_record, read_record, rollouts
from deepseek_jax.recipe.reinforcement import reinforcement
from deepseek_jax.recipe.tuning import tuning
from deepseek_jax.rl.rejection import Selection, rejection_sample
from deepseek_jax.rl.samples import SampleLog, SamplesConfig
from deepseek_jax.tasks.task import Task
from deepseek_jax.train.checkpoint import Checkpointer, load_weights
from deepseek_jax.train.loop import LoopConfig, Position, begin, train
from deepseek_jax.train.metrics import MetricsLog, read_metrics
from deepseek_jax.train.progress import Progress
from deepseek_jax.train.start import load_start
from deepseek_jax.train.state import TrainState
from deepseek_jax.types import Weights


class Run:
  """One run of the recipe in a directory.

  ConfigError, before anything is read or written there, if the graph cannot be.
  """

  def __init__(self, config: R1Config, directory: Path):
    self.config, self.directory = config, directory
    self.graph = graph_of(config)
    self.origins = origins(config, self.graph)
    unfinished = [n for n in self.graph if not self.record_path(n.stage).exists()]
    check(config, unfinished, self.origins)
    self._machines: dict[ModelConfig, Machinery] = {}
    self._task = functools.cache(open_task)

  def stages(self) -> Iterator[tuple[Node, Record]]:
    """Runs what is unfinished, in the graph's order, yielding every stage's record."""
    for node in self.graph:
      path = self.record_path(node.stage)
      if not path.exists():
        self._stage(node, seed_of(self.config, node.stage)).write(path)
      yield node, read_record(path)

  def record_path(self, stage: str) -> Path:
    """Where a stage's record lies once it is finished."""
    return self.directory / "stages" / f"{stage}.json"

  def weights(self, stage: str) -> Weights:
    """The weights a finished stage ended with, or those of the model that stands in its place.

    ConfigError if that is not any more the one that was measured.
    """
    settings = getattr(self.config, stage)
    if not isinstance(settings, GivenStage):
      return load_weights(self.checkpoints(stage))
    weights = load_start(settings.init)[1]
    if self.record_path(stage).exists():
      require(
        weights_digest(weights) == self._digest(stage),
        f"the model {settings.init} is not the one that this run began with; bring that back, or "
        "name another --workdir.",
      )
    return weights

  def checkpoints(self, stage: str) -> Path:
    """Where a stage's checkpoints lie."""
    return self.directory / "checkpoints" / stage

  def node(self, stage: str) -> Node:
    """A stage's place in the graph."""
    return next(n for n in self.graph if n.stage == stage)

  def machine(self, stage: str) -> Machinery:
    """What is compiled for the model of a stage."""
    model = self.origins[stage].model
    if model not in self._machines:
      self._machines[model] = Machinery(model, self.config)
    return self._machines[model]

  def task(self, stage: str) -> Task:
    """What a stage draws problems of."""
    return self._task(self.config.task_of(getattr(self.config, stage)))

  def _stage(self, node: Node, seed: int) -> Record:
    """Trains and evaluates one stage."""
    clock = Clock()
    entry = Entry(node.stage, node.model, node.start, node.source)
    entry.devices = self.config.mesh.devices
    if isinstance(getattr(self.config, node.stage), GivenStage):
      weights = self.machine(node.stage).place(self.weights(node.stage))
    else:
      if node.start is not None:
        entry.inputs["start"] = self._digest(node.start)
      weights, entry.steps = self._trained(node, seed, entry, clock)
    with clock("evaluation"):
      evaluations = self._evaluate(node, weights)
    self._count(entry, node)
    entry.weights = weights_digest(weights)
    entry.time(clock)
    return make_record(node.stage, evaluations, entry.as_dict())

  def _trained(self, node: Node, seed: int, entry: Entry, clock: Clock) -> tuple[Weights, int]:
    """The weights after the stage's last step, and how many those were."""
    checkpointer = Checkpointer(self.checkpoints(node.stage), keep=1)
    log = MetricsLog(self.directory, node.stage)
    try:
      state, position = self._begin(node, seed, checkpointer, log)
      course = self._course(node, seed, position, entry, clock)
      loop = LoopConfig(
        steps=course.steps,
        checkpoint_every=self.config.save_every,
        keep=1,
        log_every=self.config.log_every,
      )
      progress = Progress(loop.steps, loop.progress_seconds, node.stage)
      with clock("training"):
        state, position = train(
          state, position, course.step, course.feed, loop, checkpointer, log, progress=progress
        )
    finally:
      log.close()
      checkpointer.close()
    return state.weights, position.step

  def _begin(
    self, node: Node, seed: int, checkpointer: Checkpointer, log: MetricsLog
  ) -> tuple[TrainState, Position]:
    """The stage's newest checkpoint, or the state it begins with."""
    machine, settings = self.machine(node.stage), getattr(self.config, node.stage)
    reference = isinstance(settings, ReinforceStage) and settings.rl.kl_weight > 0

    def create() -> TrainState:
      weights = None if node.start is None else self.weights(node.start)
      return machine.fresh(seed, weights, reference)

    return begin(machine.abstract(reference), create, checkpointer, log)

  def _course(
    self, node: Node, seed: int, position: Position, entry: Entry, clock: Clock
  ) -> Course:
    """The stage's batches and step, by the type of its settings."""
    settings, tokenizer = getattr(self.config, node.stage), self.origins[node.stage].tokenizer
    machine = self.machine(node.stage)
    match settings:
      case PretrainStage():
        task = self.config.task_of(settings)
        return pretraining(settings, machine, tokenizer, task, seed, position)
      case ReinforceStage():
        samples = self._samples(node.stage, position)
        return reinforcement(
          settings, machine, tokenizer, self.task(node.stage), seed, clock, samples,
          self.config.log_every,
        )  # fmt: skip
      case TuneStage():
        with clock("sampling"):
          learnt = self._lessons(node, settings, seed, entry)
        return tuning(settings, machine, tokenizer, learnt.samples, seed)
    raise TypeError(f"{node.stage} has settings of type {type(settings).__name__}")

  def _samples(self, stage: str, position: Position) -> SampleLog:
    """What is said in a stage of reinforcement, behind what its checkpoint knows."""
    folder = rollouts(self.directory, stage).parent
    folder.mkdir(parents=True, exist_ok=True)
    log = SampleLog(folder, SamplesConfig())
    log.resume(position.step)
    return log

  def _lessons(self, node: Node, settings: TuneStage, seed: int, entry: Entry) -> Lessons:
    """What the source stage says about training problems, filtered, and what is written."""
    own, drawn = self.origins[node.stage], None
    if node.source is not None:
      source = node.source
      drawn = kept_or_drawn(
        self.directory / "samples", node.stage, own.form,
        lambda: self._sample(node.stage, source, settings, seed),
      )  # fmt: skip
      entry.selection, entry.tokens_sampled = dict(drawn.counts), drawn.tokens
      entry.sample_flops = drawn.tokens * self._sample_flops(source)
      entry.inputs["source"] = self._digest(source)
    learnt = lessons(node.stage, settings, drawn, own.tokenizer, own.form, seed)
    entry.learnt = learnt.counts
    entry.inputs |= learnt.hashes
    return learnt

  def _sample(self, stage: str, source: str, settings: TuneStage, seed: int) -> Selection:
    """Samples of the source on problems of the stage; ConfigError if none is fit to be learnt."""
    print(f"{stage}: sampling {source}", file=sys.stderr, flush=True)
    machine, tokenizer = self.machine(source), self.origins[source].tokenizer
    weights = machine.place(self.weights(source))
    selection = rejection_sample(
      machine.engine, weights, self.task(stage), tokenizer, settings.samples, seed
    )
    require(
      len(selection.kept) > 0,
      f"{stage} has nothing to learn from: no sample of {source} passed the filter "
      f"({selection.counts}); train {source} for longer.",
    )
    return selection

  def _evaluate(self, node: Node, weights: Weights) -> list[Evaluation]:
    """The stage's three evaluations; see `measuring.py`."""
    origin, task = self.origins[node.stage], self._task(self.config.task)
    protocol = protocol_of(self.config, origin)
    return measured(self.machine(node.stage), weights, origin, task, protocol)

  def _count(self, entry: Entry, node: Node) -> None:
    """Enters tokens and FLOPs, from the stage's metrics, so that resumptions count too."""
    settings, model = getattr(self.config, node.stage), self.origins[node.stage].model
    rows = [r for r in read_metrics(self.directory / "metrics.jsonl") if r["stage"] == node.stage]
    count(entry, settings, model, rows, self._sample_flops(node.stage))

  def _sample_flops(self, stage: str) -> float:
    """Of one sampled token, at half the longest context."""
    return forward_flops(self.origins[stage].model, self.config.evaluation.max_new / 2)

  def _digest(self, stage: str) -> str:
    """The hash of the weights a finished stage ended with; of an older version's it is made."""
    found = read_record(self.record_path(stage)).entry.get("weights")
    return found or weights_digest(load_weights(self.checkpoints(stage)))
