"""Distillation on a teacher's logits (1503.02531, section 2).

R1's students learnt from the teacher's text alone (2501.12948, section 2.4): that is fine-tuning,
the step of `pretrain` on the teacher's answers. Here the student also matches the teacher's
distribution of every token trained on, which needs one vocabulary for both:

  loss = (1 - mix) CE + mix tau^2 KL(teacher_tau || student_tau) + MTP and balance as ever

with both distributions tempered by tau; its square keeps the size of the gradient.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deepseek_jax.config import require
from deepseek_jax.model.transformer import Transformer, forward, head_DV
from deepseek_jax.sharding import flat, row_devices
from deepseek_jax.train.losses import shift_targets, split_rows
from deepseek_jax.train.pretrain import PretrainConfig, PretrainKnobs, gradients
from deepseek_jax.train.state import (
  Metrics,
  TrainState,
  apply_gradients,
  compile_step,
  selects_by_bias,
)
from deepseek_jax.types import Batch, Weights


@flax.struct.dataclass
class DistillKnobs:
  """Traced scalars. `pretrain.ce_weight` is overruled by the mix."""

  pretrain: PretrainKnobs
  mix: Any = 1.0  # of the divergence; the rest is cross-entropy
  temperature: Any = 1.0


Step = Callable[[TrainState, Weights, Batch, DistillKnobs], tuple[TrainState, Metrics]]


def make_step(
  student: Transformer,
  teacher: Transformer,
  tx: optax.GradientTransformation,
  config: PretrainConfig | None = None,
  vocab: int | None = None,
) -> Step:
  """step(state, teacher_weights, batch_MBT, knobs) -> (state, metrics), compiled; state donated.

  Metrics are those of `pretrain.make_step` and `divergence`: tau^2 KL, nats per token. `vocab` is
  how many ids their common tokenizer has; vocabularies padded to different sizes are compared
  on those. ConfigError if they differ without it.
  """
  config = config or PretrainConfig()
  padded = student.config.vocab != teacher.config.vocab
  require(
    not padded or vocab is not None,
    f"The student's vocabulary has {student.config.vocab} tokens, the teacher's "
    f"{teacher.config.vocab}; to distil on logits they must be one, else distil on text.",
  )

  def step(state: TrainState, teacher_weights: Weights, batch: Batch, knobs: DistillKnobs):
    def further(hidden_BTD: jax.Array, head: jax.Array, micro: Batch, total: jax.Array):
      out = forward(
        teacher, teacher_weights, micro.tokens_BT, micro.positions_BT, micro.segments_BT
      )
      _, weight_BT = shift_targets(micro)
      theirs_DV, ids = head_DV(teacher, teacher_weights), vocab if padded else None
      divergence = tempered_divergence(
        (flat(student.mesh, hidden_BTD), head[:, :ids]),
        (flat(teacher.mesh, out.hidden_BTD), theirs_DV[:, :ids]),
        flat(student.mesh, weight_BT) / jnp.maximum(total, 1),
        knobs.temperature,
        config.loss_chunk * row_devices(student.mesh),
      )
      return knobs.mix * divergence

    settings = dataclasses.replace(knobs.pretrain, ce_weight=1.0 - knobs.mix)
    grads, sums, targets = gradients(
      student, state.weights, batch, settings, config.loss_chunk, further
    )
    load_LE = sums.load_LE if selects_by_bias(student.config) else None
    state, metrics = apply_gradients(
      state, grads, load_LE, tx, settings.learning_rate, settings.bias_speed, config.ema_decay
    )
    named = {name: getattr(sums, name) for name in ("loss", "ce", "mtp_ce", "balance")}
    divergence = sums.further / jnp.where(knobs.mix == 0, 1.0, knobs.mix)
    return state, {**metrics, **named, "divergence": divergence, "tokens": targets}

  return compile_step(step, student.mesh)


def tempered_divergence(
  student: tuple[jax.Array, jax.Array],
  teacher: tuple[jax.Array, jax.Array],
  weights_N: jax.Array,
  temperature: jax.typing.ArrayLike,
  chunk: int,
) -> jax.Array:
  """Sum over rows of weight * tau^2 * KL(teacher_tau || student_tau).

  Each model is given as its hidden states [N, D] and its head [D, V]; the widths may differ. About
  `chunk` rows of each model's logits exist at a time, in the backward pass too, which makes them
  again. No gradient reaches the teacher.
  """
  teacher_ND, teacher_DV = jax.lax.stop_gradient(teacher)
  student_ND, student_DV = student

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def add(total: jax.Array, rows: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
    mine_ND, theirs_ND, weights_N = rows
    mine_NV = _log_softmax(mine_ND, student_DV, temperature)
    theirs_NV = _log_softmax(theirs_ND, teacher_DV, temperature)
    divergence_N = jnp.sum(jnp.exp(theirs_NV) * (theirs_NV - mine_NV), axis=-1)
    return total + jnp.sum(weights_N * divergence_N), None

  rows = tuple(split_rows(x, chunk) for x in (student_ND, teacher_ND, weights_N))
  total, _ = jax.lax.scan(add, jnp.zeros([], jnp.float32), rows)
  return jnp.square(temperature) * total


def _log_softmax(
  hidden_ND: jax.Array, head_DV: jax.Array, temperature: jax.typing.ArrayLike
) -> jax.Array:
  logits_NV = jnp.dot(hidden_ND, head_DV, preferred_element_type=jnp.float32)
  return jax.nn.log_softmax(logits_NV / temperature, axis=-1)
