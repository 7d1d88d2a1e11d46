"""The loop of every training job: next batch, step, the metrics of the step before, checkpoint.

It is host code and knows no loss. What a job does differently is in its `step` (a compiled
function, or several of them under one Python function) and its `feed`, which makes the batch and
the knobs of a step from the run's position; the R1 recipe calls it once per stage.
"""

import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import group, heartbeat
from deepseek_jax.hosts.vote import Vote
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.metrics import MetricsLog
from deepseek_jax.train.monitor import Monitor
from deepseek_jax.train.progress import Progress
from deepseek_jax.train.state import Metrics, TrainState
from deepseek_jax.types import Weights

_USUAL_DECAY = 0.98  # of the running loss that a spike is measured against


class TrainingDiverged(RuntimeError):  # noqa: N818
  """The loss is not a number, or a figure is above its usual height or limit. One sentence."""


class Terminated(Exception):  # noqa: N818
  """SIGTERM came; the state is saved."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How far a job goes, and what it writes on the way."""

  steps: int
  checkpoint_every: int = 500  # steps; the last step is always saved
  keep: int = 2  # checkpoints
  log_every: int = 1  # steps
  spike_factor: float | None = None  # stop at a loss this many times its running mean
  progress_seconds: float = 5.0  # between lines of progress; 0: a line for every logged step
  profile_steps: str = ""  # "3-5": trace these steps with jax.profiler

  def __post_init__(self) -> None:
    for name in ("steps", "checkpoint_every", "keep", "log_every"):
      value = getattr(self, name)
      require(value > 0, f"train.{name} is {value}; it must be positive.")
    require(
      self.spike_factor is None or self.spike_factor > 1,
      f"train.spike_factor is {self.spike_factor}; it must be above 1, or None.",
    )
    require(
      0 <= self.progress_seconds < math.inf,
      f"train.progress_seconds is {self.progress_seconds}; it must be >= 0 and finite.",
    )
    self.profiled()

  def profiled(self) -> range:
    """The steps to trace, counted from 1."""
    if not self.profile_steps:
      return range(0)
    first, dash, last = self.profile_steps.partition("-")
    right = dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)
    require(
      bool(right), f"train.profile_steps is {self.profile_steps!r}; write it as first-last: 3-5."
    )
    return range(int(first), int(last) + 1)


@dataclasses.dataclass(frozen=True)
class Position:
  """How far a run has come; with the state, all that a later step depends on."""

  step: int = 0  # updates done
  tokens: int = 0  # seen; an exact Python integer
  # JSON: where the data, or whatever `feed` draws from, continues. Of several processes each may
  # know of its own alone; a checkpoint knows of all.
  data: Any = None
  usual_loss: float | None = None  # running mean, of the steps whose metrics were read


@dataclasses.dataclass(frozen=True)
class Limit:
  """The largest value of a metric with which a run goes on, and the field that sets it."""

  value: float
  field: str


@dataclasses.dataclass(frozen=True)
class Feed:
  """What one step takes, and where that leaves the run."""

  batch: Any
  knobs: Any
  tokens: int  # of this batch
  data: Any = None  # `Position.data` after it
  metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # to log beside the step's
  limits: Mapping[str, Limit] = dataclasses.field(default_factory=dict)  # of the step's, by name


FeedFn = Callable[[Position, TrainState], Feed]  # StopIteration: the data is at its end
StepFn = Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]


def begin(
  abstract: TrainState,
  create: Callable[[], TrainState],
  checkpointer: Checkpointer,
  log: MetricsLog,
) -> tuple[TrainState, Position]:
  """Where the run stands: its newest checkpoint, or else a state made by `create`.

  `abstract` is the state's shapes and shardings. The log loses what lies behind that point.
  """
  if checkpointer.latest_step() is None:
    log.resume(0)
    return create(), Position()
  state, host = checkpointer.restore(abstract)
  try:
    position = Position(**host)
  except TypeError as error:
    raise ConfigError(f"{checkpointer.directory} was not written by a training job.") from error
  log.resume(position.step)
  return state, position


def train(
  state: TrainState,
  position: Position,
  step: StepFn,
  feed: FeedFn,
  config: LoopConfig,
  checkpointer: Checkpointer,
  log: MetricsLog,
  profile: Path | None = None,
  progress: Progress | None = None,
  monitor: Monitor | None = None,
) -> tuple[TrainState, Position]:
  """Runs to `config.steps` (or the end of the data), and saves there.

  `state` is given away: steps donate it. `profile` is where traces go. `monitor` is asked before
  each step.

  Raises:
    TrainingDiverged: by a loss that is no number or spikes, or a metric above its limit; nothing
      of it is saved.
    Terminated: by SIGTERM to any process, once the steps under way are saved.
    ConfigError: the disk is full.
  """
  progress = progress or Progress(config.steps, config.progress_seconds)
  run, began = _Run(config, checkpointer, log, progress, position.usual_loss), position.step
  with _sigterm() as asked, _Trace(config.profiled(), profile) as trace:
    terminated = Vote()
    while position.step < config.steps and not terminated.by_any(asked.is_set()):
      heartbeat.move(f"what it does before step {position.step + 1}")
      if monitor is not None and monitor.due(position.step):
        run.aside(monitor, position, state.weights)
      try:
        fed = feed(position, state)
      except StopIteration:
        break
      except ConfigError:
        run.read()  # if the step before has diverged, so will have what is sampled from it
        raise
      heartbeat.move(f"step {position.step + 1}")
      trace.before(position.step + 1, state)
      state, metrics = step(state, fed.batch, fed.knobs)
      position = dataclasses.replace(
        position, step=position.step + 1, tokens=position.tokens + fed.tokens, data=fed.data
      )
      trace.after(position.step, state)
      run.dispatched(position, metrics, fed)
      if position.step % config.checkpoint_every == 0:
        run.save(state, position)
    heartbeat.move("the end of training")
    run.save(state, position)
    checkpointer.wait()
    terminated.by_any(asked.is_set())
    if position.step == began and not terminated.decided:
      progress.nothing(began)
    progress.finish(position.step, position.tokens)
  if terminated.decided:
    raise Terminated(f"SIGTERM: saved after step {position.step} in {checkpointer.directory}.")
  return state, dataclasses.replace(position, usual_loss=run.usual_loss)


class _Run:
  """Reads metrics one step late, so that the device always has a step to work on."""

  def __init__(
    self,
    config: LoopConfig,
    checkpointer: Checkpointer,
    log: MetricsLog,
    progress: Progress,
    usual_loss: float | None,
  ):
    self.config, self.checkpointer, self.log = config, checkpointer, log
    self.progress = progress
    self.usual_loss = usual_loss
    self._pending: tuple[Position, Metrics, Feed] | None = None
    self._clock = time.monotonic()

  def dispatched(self, position: Position, metrics: Metrics, fed: Feed) -> None:
    """Takes the metrics of a step under way and reads those of the one before."""
    self.read()
    self._pending = (position, metrics, fed)

  def read(self) -> None:
    """Waits for the pending metrics, judges and logs them."""
    if self._pending is None:
      return
    position, arrays, fed = self._pending
    self._pending = None
    heartbeat.move(f"the figures of step {position.step}")
    metrics = {name: float(value) for name, value in jax.device_get(arrays).items()}
    seconds = time.monotonic() - self._clock
    self._clock += seconds
    rate = fed.tokens / max(seconds, 1e-9)
    wall = {"seconds": round(seconds, 4), "tokens_per_second": round(rate, 1)}
    record = {**metrics, **fed.metrics, "tokens_seen": position.tokens, **wall}
    self._judge(position.step, record, metrics, fed)
    if position.step % self.config.log_every == 0 or position.step == self.config.steps:
      self.log.write(position.step, record)
      self.progress.show(position.step, position.tokens, metrics.get("loss"))

  def aside(self, monitor: Monitor, position: Position, weights: Weights) -> None:
    """Lets the monitor look, if all steps so far have ended well; in the seconds of no step."""
    self.read()
    began = time.monotonic()
    monitor.look(position.step, weights)
    self._clock += time.monotonic() - began

  def save(self, state: TrainState, position: Position) -> None:
    """Logs everything up to `position`, then starts to save it."""
    self.read()
    if position.step in (0, self.checkpointer.latest_step()):
      return
    self.log.sync()
    heartbeat.move(f"the checkpoint of step {position.step}")
    known = dataclasses.replace(
      position, usual_loss=self.usual_loss, data=group.united(position.data)
    )
    host = dataclasses.asdict(known)
    self.checkpointer.save(position.step, state, host)

  def _judge(
    self, step: int, record: Mapping[str, Any], metrics: Mapping[str, float], fed: Feed
  ) -> None:
    """Raises TrainingDiverged at a bad step; otherwise lets its loss into the running mean."""
    reason = self._fault(step, metrics, fed.limits)
    if reason:
      self._stop(step, reason, record)
    loss, usual = metrics.get("loss", 0.0), self.usual_loss
    self.usual_loss = loss if usual is None else _USUAL_DECAY * usual + (1 - _USUAL_DECAY) * loss

  def _fault(self, step: int, metrics: Mapping[str, float], limits: Mapping[str, Limit]) -> str:
    """Why a run cannot go on from a step of these metrics, or nothing."""
    for name in ("loss", "grad_norm"):
      if not math.isfinite(metrics.get(name, 0.0)):
        return f"the {name} of step {step} is {metrics[name]}"
    for name, limit in limits.items():
      if not metrics.get(name, limit.value) <= limit.value:  # which is true of nan
        told = f"the {name} of step {step} is {metrics[name]:.4g}"
        return f"{told}, more than {limit.field}, {limit.value:.4g}"
    loss, usual, factor = metrics.get("loss", 0.0), self.usual_loss, self.config.spike_factor
    if factor is not None and usual is not None and loss > factor * usual:
      return f"the loss of step {step} is {loss:.4g}, more than {factor} times {usual:.4g}"
    return ""

  def _stop(self, step: int, reason: str, record: Mapping[str, Any]) -> None:
    """Ends the run. The step's record is kept, so that what was measured can be looked into."""
    known = {n: None if _no_number(value) else value for n, value in record.items()}
    self.log.write(step, {**known, "stopped": reason})
    self.log.sync()
    self.checkpointer.wait()
    last = self.checkpointer.latest_step()
    place = "there is none" if last is None else f"it is {self.checkpointer.path(last)}"
    raise TrainingDiverged(
      f"{reason}; training stops, nothing was saved after the last good checkpoint: {place}."
    )


def _no_number(value: Any) -> bool:
  return isinstance(value, float) and not math.isfinite(value)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
  """An event that SIGTERM sets while the loop runs; only the main thread can listen."""
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield event
    return
  before = signal.signal(signal.SIGTERM, lambda *_: event.set())
  try:
    yield event
  finally:
    signal.signal(signal.SIGTERM, before)


class _Trace:
  """Traces some steps, whole: the device is idle at both ends."""

  def __init__(self, steps: range, directory: Path | None):
    self._steps = steps if directory is not None else range(0)
    self._directory = directory
    self._running = False

  def __enter__(self) -> "_Trace":
    return self

  def before(self, step: int, state: TrainState) -> None:
    """Starts ahead of the first step."""
    if step in self._steps and not self._running:
      jax.block_until_ready(state)
      jax.profiler.start_trace(str(self._directory))
      self._running = True

  def after(self, step: int, state: TrainState) -> None:
    """Ends behind the last step."""
    if self._running and step == self._steps[-1]:
      jax.block_until_ready(state)
      self.__exit__()
      print(f"traced steps {self._steps[0]}-{step} into {self._directory}", file=sys.stderr)

  def __exit__(self, *_: Any) -> None:
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
