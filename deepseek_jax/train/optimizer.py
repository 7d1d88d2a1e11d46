"""AdamW as V3 ran it: clipped, decoupled decay, moments in a dtype of choice.

The transformation returned here leaves the learning rate out: every step multiplies it in as a
traced scalar (`state.apply_gradients`), so that no schedule ever recompiles a step.

V3 (2412.19437, section 4.2): beta1 0.9, beta2 0.95, weight decay 0.1, clip norm 1.0; epsilon is not
published, 1e-8 is ours. Nor is it published what is exempt from decay: here norms and biases are,
while every matrix decays, the embedding, the head and the routers included. Both moments may be
kept in bfloat16 as V3 did (section 3.3.3); the arithmetic on them is float32.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from deepseek_jax.config import require


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW's constants; the learning rate belongs to the schedule."""

  beta1: float = 0.9
  beta2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float | None = 1.0  # None does not clip
  moment_dtype: str = "float32"  # float32 | bfloat16
  ema_decay: float | None = None  # None keeps no moving average of the weights

  def __post_init__(self) -> None:
    for name in ("beta1", "beta2"):
      value = getattr(self, name)
      require(0 <= value < 1, f"optimizer.{name} is {value}; it must be in [0, 1).")
    require(
      0 < self.epsilon < math.inf,
      f"optimizer.epsilon is {self.epsilon}; it must be positive and finite.",
    )
    require(
      0 <= self.weight_decay < math.inf,
      f"optimizer.weight_decay is {self.weight_decay}; it must be >= 0 and finite.",
    )
    require(
      self.clip_norm is None or self.clip_norm > 0,
      f"optimizer.clip_norm is {self.clip_norm}; it must be positive, or None.",
    )
    require(
      self.moment_dtype in ("float32", "bfloat16"),
      f"optimizer.moment_dtype is {self.moment_dtype!r}; use float32 or bfloat16.",
    )
    require(
      self.ema_decay is None or 0 < self.ema_decay < 1,
      f"optimizer.ema_decay is {self.ema_decay}; it must be in (0, 1), or None.",
    )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Gradients -> the direction to step against, without the learning rate."""
  parts = [
    scale_by_adam(config.beta1, config.beta2, config.epsilon, jnp.dtype(config.moment_dtype)),
    optax.add_decayed_weights(config.weight_decay, mask=decayed),
  ]
  if config.clip_norm is not None:
    parts.insert(0, clip_by_global_norm(config.clip_norm))
  return optax.chain(*parts)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
  """Scales gradients down to a global norm of at most `limit`.

  optax's divides every gradient, of which XLA then writes a copy; a factor it multiplies in place.
  """

  def update(grads: Any, state: optax.EmptyState, params: Any = None) -> Any:
    del params
    factor = jnp.minimum(1.0, limit / jnp.maximum(optax.global_norm(grads), 1e-30))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decayed(params: Any) -> Any:
  """A tree of booleans: which parameters decay. Scanned stacks give norms a second axis, so that
  the name decides and not the number of axes."""

  def decays(path: tuple[Any, ...], _: Any) -> bool:
    name = str(getattr(path[-1], "key", path[-1]))
    return "norm" not in name and "bias" not in name

  return jax.tree_util.tree_map_with_path(decays, params)


def scale_by_adam(
  beta1: float, beta2: float, epsilon: float, dtype: Any
) -> optax.GradientTransformation:
  """Adam's direction with both moments stored as `dtype` (optax casts only the first)."""

  def init(params: Any) -> optax.ScaleByAdamState:
    def zeros() -> Any:
      return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params)

    return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros(), nu=zeros())

  def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
    del params
    count = state.count + 1
    steps = count.astype(jnp.float32)
    correct1, correct2 = 1 / (1 - beta1**steps), 1 / (1 - beta2**steps)
    mu = jax.tree.map(
      lambda g, m: beta1 * m.astype(jnp.float32) + (1 - beta1) * g.astype(jnp.float32),
      grads,
      state.mu,
    )
    nu = jax.tree.map(
      lambda g, v: beta2 * v.astype(jnp.float32) + (1 - beta2) * jnp.square(g.astype(jnp.float32)),
      grads,
      state.nu,
    )
    direction = jax.tree.map(
      lambda m, v: (m * correct1) / (jnp.sqrt(v * correct2) + epsilon), mu, nu
    )
    stored = [jax.tree.map(lambda x: x.astype(dtype), moment) for moment in (mu, nu)]
    return direction, optax.ScaleByAdamState(count=count, mu=stored[0], nu=stored[1])

  return optax.GradientTransformation(init, update)
