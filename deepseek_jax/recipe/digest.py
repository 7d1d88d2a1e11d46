"""Hashes of what goes into a stage and comes out of it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deepseek_jax.types import Weights


def weights_digest(weights: Weights) -> str:
  """SHA-256 of the arrays with their names, types and shapes; where they lie does not matter."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]:
    array = np.ascontiguousarray(jax.device_get(leaf))
    if array.size:  # a model without experts has a bias without rows, of one shape or another
      digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
      digest.update(array.tobytes())
  return digest.hexdigest()


def records_digest(records: Sequence[Any]) -> str:
  """SHA-256 of values as lines of JSON."""
  digest = hashlib.sha256()
  for record in records:
    digest.update(json.dumps(record, sort_keys=True, ensure_ascii=True).encode() + b"\n")
  return digest.hexdigest()


def file_digest(path: Path) -> str:
  """SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
