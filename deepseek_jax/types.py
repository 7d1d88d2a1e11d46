"""Shared array containers, and the legend of axis letters.

Every array name ends in its axes, `x_BTD`; so does every parameter, `gate_EDF`, which is also what
`sharding` reads to place it on a mesh. An upper-case letter is an axis:

  B batch             T query position       S key (cache) position   N tokens, B * T
  D model width       W 2 * D (MTP input)    F feed-forward width     V vocabulary
  H query heads       G key/value heads      K no-position head dim   R rotary head dim
  U value head dim    C key/value latent     Q query latent           L layers
  X C + R: a token's entry in MLA's cache
  E experts           A active experts       Z expert groups          P MTP depth
  J samples per prompt                       M micro-batches
  I, O inputs and outputs of a matrix        Y rank of a matrix's change (LoRA)
"""

from typing import Any

import flax.struct
import jax
import numpy as np

SHARED = 2**16  # segments from here on see another one besides their own, see `Batch`
Params = Any  # a nested dict of arrays
Array = jax.Array | np.ndarray  # of what is made on the host and used on the device


@flax.struct.dataclass
class Weights:
  """Everything that makes a trained model: what is saved, sampled from and exported.

  `router_bias_LE` steers expert selection and is moved by rule, not by gradient (2412.19437,
  section 2.1.2). Its rows are the expert layers in order, then the MTP modules. A model without
  experts has shape [0, 0]; one whose router has no bias keeps zeros.
  """

  params: Params
  router_bias_LE: jax.Array


@flax.struct.dataclass
class Batch:
  """Packed token rows.

  Position t is trained to predict token t + 1 where `loss_mask_BT[t + 1]` is set and both lie in
  the same segment. Segment 0 is padding. A query sees the keys of its own segment whose position
  is not above its own: documents packed as V3 does share one segment and run on in position;
  documents hidden from one another have segments and positions of their own. A segment s of SHARED
  or more sees those of segment s % SHARED as well: the prompt that it shares with others.
  """

  tokens_BT: jax.Array  # int32
  positions_BT: jax.Array  # int32
  segments_BT: jax.Array  # int32, 0 where padded
  loss_mask_BT: jax.Array  # float32, of the token as a target


@flax.struct.dataclass
class Routing:
  """What the expert layers report. Rows are as in `Weights.router_bias_LE`."""

  load_LE: jax.Array  # float32: tokens (not padding) sent to each expert
  balance_L: jax.Array  # float32: sequence-wise balance loss before its coefficient
  experts_LBTA: jax.Array  # int32: chosen experts, ascending


@flax.struct.dataclass
class RolloutBatch:
  """Packed sampled sequences for a policy-gradient step; one segment of a row is one sequence.

  Of sequences that share a prompt (see `rl/packing.py`) a segment begins within that prompt.

  All [B, T] arrays beside `batch` describe the token at t as a target (as `loss_mask_BT` does),
  and are zero elsewhere. `weight_BT` is the weight of a token in the objective and sums to about
  one over all rows of an update: it is where token-level, sequence-level and constant
  normalisation differ. `experts_LBTA` are those met while sampling, -1 where unknown, at the
  position that was the *input* of the model, hence t - 1 for the target t.
  """

  batch: Batch
  advantage_BT: Array  # float32
  weight_BT: Array  # float32
  old_logprob_BT: Array  # float32: of the policy that sampled
  ref_logprob_BT: Array  # float32: of the reference; zeros when KL is off
  experts_LBTA: Array  # int32


@flax.struct.dataclass
class PreferenceBatch:
  """Texts to be rewarded, one a row, and what is known of them.

  Where `chosen_B` is set, the row was preferred to the row behind it. Where `judged_B` is set, the
  text has a label: 1 what is wanted (safe), 0 what is not. A row of padding has neither.
  """

  tokens_BT: jax.Array  # int32
  positions_BT: jax.Array  # int32
  segments_BT: jax.Array  # int32, 1, and 0 where padded
  chosen_B: jax.Array  # float32, 0 or 1
  judged_B: jax.Array  # float32, 0 or 1
  label_B: jax.Array  # float32


@flax.struct.dataclass
class Span:
  """Where tokens stand, which is all that a mask depends on (see `Batch`); T may also be S."""

  positions_BT: jax.Array  # int32
  segments_BT: jax.Array  # int32
