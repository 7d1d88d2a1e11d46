"""The base of a run that trains adapters: named and summed in W/base.json, not copied.

Checkpoints hold the adapters alone (`state.learnt`). The sums are of the values in float32, so that
they are the same however the base is kept in memory; a base that has changed is refused, for the
adapters say nothing about another.
"""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.config import ConfigError, from_dict, require
from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.ops.fp8 import FP8Blocks
from deepseek_jax.paths import local_path
from deepseek_jax.train.workdir import read_config, write_atomically
from deepseek_jax.types import Weights

NOTE = "base.json"
_NAMED = 3  # differing tensors named in a message


def lora_of(workdir: Path) -> LoRAConfig | None:
  """What a run in `workdir` adapts, if it trains adapters."""
  values = read_config(workdir).get("lora")
  return None if values is None else from_dict(LoRAConfig, values, f"{workdir}: lora")


def keep_base(workdir: Path, model: str, base: Weights) -> None:
  """Notes a run's base; ConfigError if it is not the one that the run began with."""
  if (workdir / NOTE).is_file():
    check_base(workdir, base)
    return
  path = local_path(model)
  place = str(path.absolute()) if path.exists() else model  # or a name of the Hub's
  note = {"model": place, "sha256": sums(base)}
  write_atomically(workdir / NOTE, json.dumps(note, indent=1) + "\n")


def base_model(workdir: Path) -> str:
  """Where the base of the adapters in `workdir` lies: what `load_stored` takes."""
  return _note(workdir)[0]


def check_base(workdir: Path, base: Weights) -> None:
  """ConfigError unless these are the weights that the adapters in `workdir` were trained on."""
  model, before = _note(workdir)
  now = sums(base)
  changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
  more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
  require(
    not changed,
    f"{model} is no longer the base of the adapters in {workdir}: {', '.join(changed[:_NAMED])}"
    f"{more} differ; bring back what was there.",
  )


def sums(weights: Weights) -> dict[str, str]:
  """The SHA-256 of every array by its path."""
  found = jax.tree_util.tree_leaves_with_path(
    {"params": weights.params, "router_bias_LE": weights.router_bias_LE},
    is_leaf=lambda x: isinstance(x, FP8Blocks),
  )
  return {"/".join(str(key.key) for key in path): _sum(leaf) for path, leaf in found}


def _sum(leaf: jax.Array | np.ndarray | FP8Blocks) -> str:
  values = np.asarray(leaf.astype(jnp.float32))
  return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _note(workdir: Path) -> tuple[str, dict[str, str]]:
  """The base's place and sums; ConfigError where they cannot be read."""
  path = workdir / NOTE
  try:
    note = json.loads(path.read_text(encoding="utf-8"))
    return note["model"], note["sha256"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ConfigError(
      f"{path} cannot be read ({error}), which says what the adapters in {workdir} were trained "
      "on; bring it back."
    ) from error
