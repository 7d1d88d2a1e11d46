"""Running the graph: each stage trains, is evaluated, leaves a record; finished ones are skipped.

  W/checkpoints/STAGE/   the stage's checkpoints
  W/stages/STAGE.json    its record, written last; once its curves are drawn, they are beside it
  W/metrics.jsonl        all stages' steps, each with its stage

Everything a stage does is a function of the configuration and its position, so a run that is
killed anywhere and started again ends with the same weights and figures.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.data.document import Sample
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.evaluate.evaluation import (
  Evaluation,
  Protocol,
  evaluate_each,
  standard_protocols,
)
from deepseek_jax.plan.flops import forward_flops, train_flops
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import (
  SEEDS_PER_RUN,
  PretrainStage,
  R1Config,
  ReinforceStage,
  TuneStage,
)
from deepseek_jax.recipe.graph import GRAPH, Node
from deepseek_jax.recipe.ledger import Entry
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.recipe.record import Record, make_record, read_record
from deepseek_jax.recipe.stages import Course, pretraining, reinforcement, samples_of, tuning
from deepseek_jax.rl.rejection import rejection_sample
from deepseek_jax.tasks.environment import check_turns, refuse_turns
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.checkpoint import Checkpointer, load_weights
from deepseek_jax.train.loop import LoopConfig, Position, begin, train
from deepseek_jax.train.metrics import MetricsLog, read_metrics
from deepseek_jax.train.progress import Progress
from deepseek_jax.train.state import TrainState
from deepseek_jax.types import Weights


class Run:
  """One run of the recipe in a directory."""

  def __init__(self, config: R1Config, directory: Path):
    self.config, self.directory = config, directory
    self.tokenizer = load_tokenizer(config.tokenizer)
    self.task = load_task(config.task)
    refuse_turns(self.task, "the recipe of R1")
    for node in GRAPH:
      settings = getattr(config, node.stage)
      if isinstance(settings, ReinforceStage):
        check_turns(self.task, settings.rl.rollout.turns, f"{node.stage}.rl.rollout.turns")
    for name in ("teacher", "student"):
      vocab = getattr(config, name).vocab
      require(
        self.tokenizer.vocab_size <= vocab,
        f"{name}.vocab is {vocab}, but the tokenizer {config.tokenizer!r} has "
        f"{self.tokenizer.vocab_size} ids.",
      )
    self._machines: dict[str, Machinery] = {}

  def stages(self) -> Iterator[tuple[Node, Record]]:
    """Runs what is unfinished, in the graph's order, yielding every stage's record."""
    for index, node in enumerate(GRAPH):
      path = self.record_path(node.stage)
      if not path.exists():
        self._stage(node, self.config.seed * SEEDS_PER_RUN + index).write(path)
      yield node, read_record(path)

  def record_path(self, stage: str) -> Path:
    """Where a stage's record lies once it is finished."""
    return self.directory / "stages" / f"{stage}.json"

  def weights(self, stage: str) -> Weights:
    """The weights a finished stage ended with."""
    return load_weights(self.checkpoints(stage))

  def checkpoints(self, stage: str) -> Path:
    """Where a stage's checkpoints lie."""
    return self.directory / "checkpoints" / stage

  def model_config(self, node: Node) -> ModelConfig:
    """The architecture a stage trains."""
    return self.config.teacher if node.model == "teacher" else self.config.student

  def machine(self, model: str) -> Machinery:
    """What is compiled for the teacher or the student."""
    if model not in self._machines:
      self._machines[model] = Machinery(getattr(self.config, model), self.config)
    return self._machines[model]

  def _stage(self, node: Node, seed: int) -> Record:
    """Trains and evaluates one stage."""
    clock = Clock()
    entry = Entry(node.stage, node.model, node.start, node.source)
    machine = self.machine(node.model)
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
    with clock("evaluation"):
      evaluations = self._evaluate(machine, state.weights)
    self._count(entry, node, position.step)
    entry.time(clock)
    return make_record(node.stage, evaluations, entry.as_dict())

  def _begin(
    self, node: Node, seed: int, checkpointer: Checkpointer, log: MetricsLog
  ) -> tuple[TrainState, Position]:
    """The stage's newest checkpoint, or the state it begins with."""
    machine, settings = self.machine(node.model), getattr(self.config, node.stage)
    reference = isinstance(settings, ReinforceStage) and settings.rl.kl_weight > 0

    def create() -> TrainState:
      weights = None if node.start is None else self.weights(node.start)
      return machine.fresh(seed, weights, reference)

    return begin(machine.abstract(reference), create, checkpointer, log)

  def _course(
    self, node: Node, seed: int, position: Position, entry: Entry, clock: Clock
  ) -> Course:
    """The stage's batches and step, by the type of its settings."""
    settings = getattr(self.config, node.stage)
    machine = self.machine(node.model)
    match settings:
      case PretrainStage():
        return pretraining(settings, machine, self.tokenizer, self.config.task, seed, position)
      case ReinforceStage():
        return reinforcement(settings, machine, self.tokenizer, self.task, seed, clock)
      case TuneStage():
        with clock("sampling"):
          samples = self._samples(node, settings, seed, entry)
        return tuning(settings, machine, self.tokenizer, samples, seed)
    raise TypeError(f"{node.stage} has settings of type {type(settings).__name__}")

  def _samples(self, node: Node, settings: TuneStage, seed: int, entry: Entry) -> list[Sample]:
    """What the source stage says about training problems, filtered."""
    assert node.source is not None
    source = next(n for n in GRAPH if n.stage == node.source)
    machine = self.machine(source.model)
    print(f"{node.stage}: sampling {node.source}", file=sys.stderr, flush=True)
    weights = machine.place(self.weights(node.source))
    selection = rejection_sample(
      machine.engine, weights, self.task, self.tokenizer, settings.samples, seed
    )
    entry.selection = selection.counts
    entry.tokens_sampled = selection.tokens
    entry.sample_flops = entry.tokens_sampled * self._sample_flops(source)
    require(
      len(selection.kept) > 0,
      f"{node.stage} has nothing to learn from: no sample of {node.source} passed the filter "
      f"({selection.counts}); train {node.source} for longer.",
    )
    return samples_of(selection.kept, self.tokenizer)

  def _evaluate(self, machine: Machinery, weights: Weights) -> list[Evaluation]:
    """Greedy, T = 0.6 and T = 1 on held-out problems, the same for every stage."""
    settings = self.config.evaluation
    protocol = Protocol(
      benchmark=self.config.task,
      problems=settings.problems,
      samples=settings.samples,
      max_new=settings.max_new,
      seed=self.config.seed,
    )
    protocols = standard_protocols(protocol)
    return evaluate_each(machine.engine, weights, self.tokenizer, self.task, protocols)

  def _count(self, entry: Entry, node: Node, steps: int) -> None:
    """Enters tokens and FLOPs, from the stage's metrics, so that resumptions count too."""
    config, settings = self.model_config(node), getattr(self.config, node.stage)
    records = [
      r for r in read_metrics(self.directory / "metrics.jsonl") if r["stage"] == node.stage
    ]
    entry.steps = steps
    if isinstance(settings, ReinforceStage):
      sampled = int(sum(r["sampled_tokens"] for r in records))
      entry.tokens_sampled += sampled
      entry.sample_flops += sampled * self._sample_flops(node)
      entry.tokens_trained = int(sum(r["trained_tokens"] for r in records))
      context = settings.rl.rollout.width / 4
    else:
      entry.tokens_trained = steps * settings.batch * settings.length
      context = settings.length / 2
    entry.train_flops = entry.tokens_trained * train_flops(config, context, mtp=True)

  def _sample_flops(self, node: Node) -> float:
    """Of one sampled token, at half the longest context."""
    return forward_flops(self.model_config(node), self.config.evaluation.max_new / 2)
