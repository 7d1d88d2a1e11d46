"""DeepSeek-V3 and R1 in JAX: the model, its training, the road to R1, and distillation."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  """Imports the public surface of `deepseek_jax.api` on first use."""
  if name in ("Model", "expert_chart", "load", "load_reward_model", "read_run", "run_r1"):
    from deepseek_jax import api

    return getattr(api, name)
  raise AttributeError(f"module 'deepseek_jax' has no attribute {name!r}")
