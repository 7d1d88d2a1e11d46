"""The expert exchange: tokens travel to the devices that hold their experts, and sums come back.

Inside shard_map, where every device has tokens and experts of its own. A token is sent once to each
device that holds one or more of its experts; that device weighs and adds up what these say, and
sends one row back. So a token costs 2 D numbers for each such device, of which there are at most as
many as it has choices, and with groups (2412.19437, section 2.1.2) as many as its groups lie on.

all_to_all exchanges parts of one size: C tokens for each device. What is beyond takes further
rounds, as many as the devices agree on at run time. Nothing is ever dropped, and a round's buffers
are bounded: many tokens are cut into several rounds from the start.

Local axis letters, beside the legend: P devices of the mesh axis, C tokens for one of them in a
round, R = P * C rows that a device receives in it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# (x_RD, weights_RA, experts_RA, stacks) -> y_RD, the sum over a device's own experts. Those of
# other devices, and -1 for none, contribute nothing.
OwnExperts = Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array]

ROUND_ROWS = 2**15  # that a device receives in a round, about, where its tokens fill several


@dataclasses.dataclass(frozen=True)
class Exchange:
  """How tokens are exchanged.

  Attributes:
    axis: the mesh axis, of whose P devices the p-th holds experts p E/P to (p + 1) E/P - 1.
    agreeing: the mesh axes whose devices take equally many rounds, `axis` among them.
    held: experts on a device, E/P.
    per_round: C, see `tokens_per_round`; it changes memory and speed, nothing else.
    own_experts: what a device does with what it receives.
  """

  axis: str
  agreeing: tuple[str, ...]
  held: int
  per_round: int
  own_experts: OwnExperts

  def across(self, x_PCX: jax.Array) -> jax.Array:
    """What every device has for this one, by device."""
    return jax.lax.all_to_all(x_PCX, self.axis, 0, 0, tiled=True)


class _Lists(NamedTuple):
  """Which tokens go to which device; N stands for none."""

  token_PN: jax.Array  # in their order, and then N
  rounds: jax.Array


def tokens_per_round(tokens: int, top_k: int, devices: int) -> int:
  """C for even loads: the mean number of a device's tokens that are for another, and a margin.

  The margin is twice the square root, by which even loads differ by chance. Where that many rows
  from every device exceed ROUND_ROWS, they are cut into equal parts.
  """
  mean = tokens * min(1.0, top_k / devices)
  most = min(tokens, int(mean + 2 * mean**0.5) + 1)
  return -(-most // max(1, round(most * devices / ROUND_ROWS)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def exchanged_ffn(
  how: Exchange, x_ND: jax.Array, weights_NA: jax.Array, experts_NA: jax.Array, stacks: Any
) -> jax.Array:
  """`ops.dispatch.expert_ffn` of a device's own tokens, whose experts are anywhere on the axis.

  Differentiable in all but `experts_NA`. The backward pass sends the tokens again rather than keep
  what came, so what it needs is what is given here. Wants check_vma=False.

  Args:
    how: see `Exchange`.
    x_ND, weights_NA: the device's tokens and routing weights.
    experts_NA: int32, their chosen experts, of all.
    stacks: a pytree of the device's own experts' matrices.
  """
  return _forward(how, x_ND, weights_NA, experts_NA, stacks)[0]


def _forward(how: Exchange, x_ND, weights_NA, experts_NA, stacks):
  lists = _lists(how, experts_NA)

  def turn(i: jax.Array, y_ND: jax.Array) -> jax.Array:
    token_PC = _round(lists, how.per_round, i)
    y_RD = how.own_experts(*_received(how, token_PC, x_ND, weights_NA, experts_NA), stacks)
    return _add(y_ND, token_PC, _returned(how, y_RD))

  y_ND = jax.lax.fori_loop(0, lists.rounds, turn, jnp.zeros(x_ND.shape, jnp.float32))
  return y_ND.astype(x_ND.dtype), (x_ND, weights_NA, experts_NA, stacks)


def _backward(how: Exchange, saved, dy_ND):
  x_ND, weights_NA, experts_NA, stacks = saved
  lists = _lists(how, experts_NA)

  def turn(i: jax.Array, carry: tuple) -> tuple:
    dx_ND, dw_NA, d_stacks = carry
    token_PC = _round(lists, how.per_round, i)
    x_RD, w_RA, e_RA = _received(how, token_PC, x_ND, weights_NA, experts_NA)
    _, pull_back = jax.vjp(lambda x, w, s: how.own_experts(x, w, e_RA, s), x_RD, w_RA, stacks)
    dx_RD, dw_RA, more = pull_back(_sent(how, token_PC, dy_ND))
    dx_ND = _add(dx_ND, token_PC, _returned(how, dx_RD))
    dw_NA = _add(dw_NA, token_PC, _returned(how, dw_RA))
    return dx_ND, dw_NA, jax.tree.map(lambda a, b: a + b.astype(a.dtype), d_stacks, more)

  wide = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (x_ND, weights_NA, stacks))
  found = jax.lax.fori_loop(0, lists.rounds, turn, wide)
  given = (x_ND, weights_NA, stacks)
  dx_ND, dw_NA, d_stacks = jax.tree.map(lambda d, x: d.astype(x.dtype), found, given)
  return dx_ND, dw_NA, None, d_stacks


exchanged_ffn.defvjp(_forward, _backward)


def _lists(how: Exchange, experts_NA: jax.Array) -> _Lists:
  """The tokens for each device, and the rounds that the longest list of all devices takes."""
  tokens = experts_NA.shape[0]
  peers = jnp.arange(jax.lax.axis_size(how.axis))
  wanted_PN = (experts_NA // how.held == peers[:, None, None]).any(axis=-1)
  token_PN = jnp.sort(jnp.where(wanted_PN, jnp.arange(tokens), tokens), axis=1)
  longest = jnp.max(jnp.sum(wanted_PN, axis=1))
  rounds = jax.lax.pmax(-(-longest // how.per_round), how.agreeing)
  return _Lists(jnp.pad(token_PN, ((0, 0), (0, how.per_round)), constant_values=tokens), rounds)


def _round(lists: _Lists, size: int, i: jax.Array) -> jax.Array:
  """The tokens of round i, token_PC."""
  return jax.lax.dynamic_slice_in_dim(lists.token_PN, i * size, size, axis=1)


def _sent(how: Exchange, token_PC: jax.Array, x_NX: jax.Array, fill: int = 0) -> jax.Array:
  """Rows of tokens from every device, x_RX; `fill` where there is none."""
  x_PCX = x_NX.at[token_PC].get(mode="fill", fill_value=fill)
  return how.across(x_PCX).reshape(-1, x_NX.shape[1])


def _received(how: Exchange, token_PC, x_ND, weights_NA, experts_NA):
  return (
    _sent(how, token_PC, x_ND),
    _sent(how, token_PC, weights_NA),
    _sent(how, token_PC, experts_NA, fill=-1),
  )


def _returned(how: Exchange, y_RX: jax.Array) -> jax.Array:
  """Rows back on the devices from which their tokens came, y_PCX."""
  return how.across(y_RX.reshape(-1, how.per_round, y_RX.shape[1]))


def _add(total_NX: jax.Array, token_PC: jax.Array, rows_PCX: jax.Array) -> jax.Array:
  """Rows added to their tokens; those of none are dropped."""
  return total_NX.at[token_PC].add(rows_PCX.astype(total_NX.dtype), mode="drop")
