"""Checkpoints: Orbax, written in the background, complete or absent.

A checkpoint holds three items: `weights` (so that sampling, export and another job's start read
nothing else), `training` (the rest of the state: optimiser, step, moving average, reference) and
`host`, a JSON object with what Python knows: tokens as an exact integer, the data position,
counters. Of adapted weights it holds the adapters alone (`state.learnt`). Orbax writes it beside
its place and renames it, so a killed process leaves the checkpoints before it untouched. Several
processes write one checkpoint together, each the shards that it has; any number may read it.

Where the newest is damaged all the same, the newest that is whole is read in its place, and told.
"""

import dataclasses
import errno
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import group
from deepseek_jax.train.state import TrainState, learnt
from deepseek_jax.types import Weights

T = TypeVar("T")
_ITEMS = ("weights", "training", "host")
_TEMPORARY = ".orbax-checkpoint-tmp"
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OSError)  # what reading one may raise
_NOISE = ("Event loop is closed", "Encountered error while reading array")
_FULL = ("No space left", "RESOURCE_EXHAUSTED", "File too large", "Disk quota")


class Checkpointer:
  """The checkpoints of one run, in one directory; the last `keep` of them stay."""

  def __init__(self, directory: str | Path, keep: int = 2):
    self.directory = Path(directory).absolute()
    group.from_first(self._clear)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=_ITEMS)

  def latest_step(self) -> int | None:
    """Updates behind the newest complete checkpoint, or None without one."""
    return self._manager.latest_step()

  def path(self, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return self.directory / str(step)

  def save(self, step: int, state: TrainState, host: dict[str, Any]) -> None:
    """Starts to write the state after `step` updates; returns once its arrays are copied.

    Raises:
      ConfigError: the disk is full, found now or while the checkpoint before was written.
    """
    if step == self.latest_step():
      return
    state = learnt(state)
    with self._space():
      size = sum(x.nbytes for x in jax.tree.leaves(state))
      free = group.from_first(lambda: shutil.disk_usage(self.directory).free)
      if free < size:
        raise OSError(errno.ENOSPC, f"{size} bytes are needed and {free} free")
      training = _training(state)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          weights=ocp.args.StandardSave(_without_empty(state.weights)),
          training=ocp.args.StandardSave(_without_empty(training)),
          host=ocp.args.JsonSave(host),
        ),
        force=True,
      )

  def restore(
    self, abstract: TrainState, step: int | None = None
  ) -> tuple[TrainState, dict[str, Any]]:
    """The newest state that is whole (or that of `step`) and its host object.

    `abstract` has the arrays' shapes, dtypes and shardings, e.g. of `jax.eval_shape`; arrays are
    read straight onto their devices. A state saved on one mesh may be read on another. Damaged
    checkpoints before which one is whole are put aside as STEP.damaged, and the run saves anew.

    Raises:
      ConfigError: no such checkpoint, or one of another model.
    """

    def read(step: int) -> tuple[TrainState, dict[str, Any]]:
      return self._read(abstract, step)

    used, found = _newest_whole(self.directory, self._manager.all_steps(), step, read)
    group.same("newest checkpoint that can be read", used)
    damaged = [other for other in self._manager.all_steps() if other > used]
    if step is None and damaged:
      group.from_first(lambda: self._put_aside(damaged))
      self._manager.reload()
    return found

  def _read(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """The state and the host object of one checkpoint."""
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        weights=ocp.args.StandardRestore(_without_empty(abstract.weights)),
        training=ocp.args.StandardRestore(_without_empty(_training(abstract))),
        host=ocp.args.JsonRestore(),
      ),
    )
    state = TrainState(found["weights"], **found["training"])
    return _with_empty(state, abstract), found["host"]

  def _put_aside(self, steps: list[int]) -> None:
    """Renames damaged checkpoints, so that theirs are no longer the newest steps."""
    for step in steps:
      aside = self.directory / f"{step}.damaged"
      shutil.rmtree(aside, ignore_errors=True)
      self.path(step).rename(aside)
      print(f"The damaged checkpoint is kept as {aside}.", file=sys.stderr, flush=True)

  def wait(self) -> None:
    """Returns when everything is on disk; ConfigError if the disk is full."""
    with self._space():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the directory."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def _clear(self) -> None:
    """Makes the directory, and removes what a killed process left in it."""
    self.directory.mkdir(parents=True, exist_ok=True)
    self._remove_half_written()

  def _remove_half_written(self) -> None:
    for path in self.directory.glob(f"*{_TEMPORARY}*"):
      shutil.rmtree(path, ignore_errors=True)

  @contextmanager
  def _space(self) -> Iterator[None]:
    """Makes one sentence of a full disk, and removes what was half-written."""
    try:
      yield
    except Exception as error:
      if not disk_is_full(error):
        raise
      self._remove_half_written()
      raise ConfigError(
        f"the disk of {self.directory} is full; free some space and run the same command again."
      ) from error


def load_weights(directory: str | Path, step: int | None = None) -> Weights:
  """The weights of a run's newest whole checkpoint (or that of `step`), as numpy on the host.

  Raises:
    ConfigError: `directory`, a run's checkpoints/, holds none.
  """
  directory = Path(directory).absolute()
  require(directory.is_dir(), f"{directory} does not exist; name the checkpoints of a run.")
  handlers = {
    "weights": ocp.StandardCheckpointHandler(),
    "training": ocp.StandardCheckpointHandler(),
    "host": ocp.JsonCheckpointHandler(),
  }
  # What read_only implies is said, for Orbax warns of each field that it has to set itself.
  options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
  with _unwarned("Given directory is read only"):  # as it is to be
    opened = ocp.CheckpointManager(directory, options=options, item_handlers=handlers)
  with opened as manager:

    def read(step: int) -> Any:
      saved = manager.item_metadata(step)["weights"]
      abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), saved.tree)
      args = ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
      return manager.restore(step, args=args)["weights"]

    _, tree = _newest_whole(directory, manager.all_steps(), step, read)
  bias_LE = tree["router_bias_LE"]
  return Weights(tree["params"], jnp.zeros((0, 0)) if bias_LE is None else bias_LE)


def _newest_whole(
  directory: Path, steps: Iterable[int], wanted: int | None, read: Callable[[int], T]
) -> tuple[int, T]:
  """The newest step (or the one that is wanted) that can be read, and what `read` gave.

  Those that cannot are told. ConfigError where none can, about the first of them.
  """
  there = sorted(steps, reverse=True) if wanted is None else [s for s in steps if s == wanted]
  if not there:
    raise ConfigError(f"{directory} has no checkpoint{'' if wanted is None else f' {wanted}'}.")
  _hush()
  failures: list[tuple[int, Exception]] = []
  for step in there:
    try:
      found = read(step)
    except _DAMAGE as error:
      failures.append((step, error))
      continue
    for bad, why in failures:
      print(
        f"{directory / str(bad)} is damaged ({_first_line(why)}); {directory / str(step)} is "
        "whole and used in its place.",
        file=sys.stderr,
        flush=True,
      )
    return step, found
  newest, reason = failures[0]
  raise ConfigError(
    f"{directory / str(newest)} does not hold the state this run needs ({_first_line(reason)}), "
    f"nor does any other in {directory}; put a copy back that is whole and of this model, or "
    "delete the folder to begin anew."
  ) from reason


@contextmanager
def _unwarned(beginning: str) -> Iterator[None]:
  """Keeps warnings that begin so from being printed."""

  def wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(beginning)

  logger = logging.getLogger("absl")
  logger.addFilter(wanted)
  try:
    yield
  finally:
    logger.removeFilter(wanted)


def _hush() -> None:
  """Keeps threads that were reading a damaged array from printing tracebacks of their own."""

  def filtered(hook: Callable[..., Any], error_of: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> None:
      if not any(noise in str(error_of(*args)) for noise in _NOISE):
        hook(*args)

    return call

  if not hasattr(_hush, "done"):
    sys.excepthook = filtered(sys.excepthook, lambda kind, error, trace: error)
    sys.unraisablehook = filtered(sys.unraisablehook, lambda unraisable: unraisable.exc_value)
    _hush.done = True  # type: ignore[attr-defined]


def _without_empty(tree: Any) -> Any:
  """`tree` without arrays of no elements, which Orbax refuses: a dense model's router bias."""
  return jax.tree.map(lambda x: x if x.size else None, tree)


def _with_empty(tree: Any, abstract: Any) -> Any:
  """`tree` with the arrays that `_without_empty` took out of `abstract`."""
  leaves = iter(jax.tree.leaves(tree))
  return jax.tree.map(lambda a: next(leaves) if a.size else jnp.zeros(a.shape, a.dtype), abstract)


def _training(state: TrainState) -> dict[str, Any]:
  """Everything of a state but its weights."""
  names = (f.name for f in dataclasses.fields(state) if f.name != "weights")
  return {name: getattr(state, name) for name in names}


def disk_is_full(error: BaseException) -> bool:
  """Whether an error, whatever library wrapped it, says that nothing more can be written."""
  seen: BaseException | None = error
  while seen is not None:
    if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
      return True
    if any(text in str(seen) for text in _FULL):
      return True
    seen = seen.__cause__ or seen.__context__
  return False


def _first_line(error: BaseException) -> str:
  text = str(error).strip()
  return (text.splitlines() or [type(error).__name__])[0][:120]
