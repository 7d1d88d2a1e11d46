"""Checkpoints: Orbax, written in the background, complete or absent.

A checkpoint holds three items: `weights` (so that sampling, export and another job's start read
nothing else), `training` (the rest of the state: optimiser, step, moving average, reference) and
`host`, a JSON object with what Python knows: tokens as an exact integer, the data position,
counters. Orbax writes it beside its place and renames it, so a killed process leaves the
checkpoints before it untouched.
"""

import dataclasses
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from deepseek_jax.config import ConfigError, require
from deepseek_jax.train.state import TrainState
from deepseek_jax.types import Weights

_ITEMS = ("weights", "training", "host")
_TEMPORARY = ".orbax-checkpoint-tmp"
_FULL = ("No space left", "RESOURCE_EXHAUSTED", "File too large", "Disk quota")


class Checkpointer:
  """The checkpoints of one run, in one directory; the last `keep` of them stay."""

  def __init__(self, directory: str | Path, keep: int = 2):
    self.directory = Path(directory).absolute()
    self.directory.mkdir(parents=True, exist_ok=True)
    self._remove_half_written()
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
    with self._space():
      size = sum(x.nbytes for x in jax.tree.leaves(state))
      free = shutil.disk_usage(self.directory).free
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
    """The newest state (or that of `step`) and its host object.

    `abstract` has the arrays' shapes, dtypes and shardings, e.g. of `jax.eval_shape`; arrays are
    read straight onto their devices. A state saved on one mesh may be read on another.

    Raises:
      ConfigError: no such checkpoint, or one of another model.
    """
    step = self.latest_step() if step is None else step
    if step is None or not self.path(step).is_dir():
      raise ConfigError(f"{self.directory} has no checkpoint{'' if step is None else f' {step}'}.")
    try:
      found = self._manager.restore(
        step,
        args=ocp.args.Composite(
          weights=ocp.args.StandardRestore(_without_empty(abstract.weights)),
          training=ocp.args.StandardRestore(_without_empty(_training(abstract))),
          host=ocp.args.JsonRestore(),
        ),
      )
    except (ValueError, KeyError, TypeError) as error:
      raise ConfigError(
        f"{self.path(step)} does not hold the state this run needs ({_first_line(error)})."
      ) from error
    state = TrainState(found["weights"], **found["training"])
    return _with_empty(state, abstract), found["host"]

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
  """The weights of a run's newest checkpoint (or that of `step`), as numpy arrays on the host.

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
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(directory, options=options, item_handlers=handlers) as manager:
    step = manager.latest_step() if step is None else step
    if step is None or step not in manager.all_steps():
      raise ConfigError(f"{directory} has no checkpoint{'' if step is None else f' {step}'}.")
    saved = manager.item_metadata(step)["weights"]
    abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), saved.tree)
    args = ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
    tree = manager.restore(step, args=args)["weights"]
  bias_LE = tree["router_bias_LE"]
  return Weights(tree["params"], jnp.zeros((0, 0)) if bias_LE is None else bias_LE)


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
  return (text.splitlines() or [type(error).__name__])[0][:200]
