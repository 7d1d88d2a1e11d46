"""How far a result is from another."""

import numpy as np


def calc_diff(x: np.ndarray, y: np.ndarray) -> float:
  """DeepGEMM's measure: 1 - 2 <x, y> / (|x|^2 + |y|^2), in float64; 0 where both are zero."""
  x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
  norm = float(x @ x + y @ y)
  return 0.0 if norm == 0 else 1 - 2 * float(x @ y) / norm


def max_relative(x: np.ndarray, reference: np.ndarray) -> float:
  """The largest error over the largest magnitude of the reference."""
  x, reference = np.asarray(x, np.float64), np.asarray(reference, np.float64)
  return float(np.abs(x - reference).max() / max(np.abs(reference).max(), 1e-300))
