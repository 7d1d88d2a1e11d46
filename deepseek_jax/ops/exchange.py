"""The expert exchange: tokens travel to the devices that hold their experts, and sums come back.

Inside shard_map, where every device has tokens and experts of its own. A token is sent once to each
device that holds one or more of its experts; that device weighs and adds up what these say, and
sends one row back. So a token costs 2 D numbers for each such device, of which there are at most as
many as it has choices, and with groups (2412.19437, section 2.1.2) as many as its groups lie on.

Tokens are taken a piece at a time, which bounds the buffers: they have room for C tokens of a piece
for each device. What is beyond takes further rounds, as many as the devices agree on at run time;
for even loads there is one. Nothing is ever dropped. TPUs send the tokens that there are
(ragged_all_to_all); elsewhere empty places travel too (all_to_all of parts of one size).

No array is sorted or scattered: a compiler for TPUs takes long over either. A token's place in a
device's list is a running count, and who has a place is found in it by bisection.

Local axis letters, beside the legend: P devices of the mesh axis, C tokens for one of them in a
round, R = P * C rows that a device receives in it. N are the tokens of a piece.
"""

import dataclasses
import functools
import math
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
    pieces: into how many pieces a device's tokens are cut; it must divide them. This and
      `per_round` change memory and speed, and nothing else.
    per_round: C.
    own_experts: what a device does with what it receives.
  """

  axis: str
  agreeing: tuple[str, ...]
  held: int
  pieces: int
  per_round: int
  own_experts: OwnExperts


def measures(tokens: int, reach: float, devices: int) -> tuple[int, int]:
  """Pieces and tokens per round for even loads, where a token goes to `reach` of the devices.

  A round holds the mean number of a piece's tokens that are for another device, and a margin of
  twice its square root, by which even loads differ by chance. Where there are many their number is
  a multiple of 128: parts of other sizes took a TPU's compiler thirty times as long.
  """
  most = math.ceil(reach * tokens / ROUND_ROWS)
  pieces = next(n for n in range(max(1, most), tokens + 1) if tokens % n == 0)
  piece = tokens // pieces
  mean = piece * reach / devices
  even = int(mean + 2 * mean**0.5) + 1
  return pieces, min(piece, even if even < 128 else -(-even // 128) * 128)


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


class _Piece(NamedTuple):
  """The tokens of a piece, and where each goes."""

  x_ND: jax.Array
  weights_NA: jax.Array
  experts_NA: jax.Array
  listed_PN: jax.Array  # how many of the tokens up to and including n go to device p
  peer_NA: jax.Array  # the device of a choice
  place_NA: (
    jax.Array
  )  # of the token in that device's list; none, -1, where an earlier choice has it


def _forward(how: Exchange, x_ND, weights_NA, experts_NA, stacks):
  def piece(_: None, given: tuple) -> tuple[None, jax.Array]:
    p = _piece(how, *given)

    def turn(i: jax.Array, y_ND: jax.Array) -> jax.Array:
      r = _round(how, p, i)
      y_RD = how.own_experts(*_received(how, p, r), stacks)
      return y_ND + _returned(how, p, i, r, y_RD)

    return None, jax.lax.fori_loop(0, _rounds(how, p), turn, jnp.zeros(p.x_ND.shape, jnp.float32))

  _, y = jax.lax.scan(piece, None, _cut(how, (x_ND, weights_NA, experts_NA)))
  return y.reshape(x_ND.shape).astype(x_ND.dtype), (x_ND, weights_NA, experts_NA, stacks)


def _backward(how: Exchange, saved, dy_ND):
  x_ND, weights_NA, experts_NA, stacks = saved

  def piece(d_stacks: Any, given: tuple) -> tuple[Any, tuple]:
    p, dy_ND = _piece(how, *given[:-1]), given[-1]

    def turn(i: jax.Array, carry: tuple) -> tuple:
      dx_ND, dw_NA, d_stacks = carry
      r = _round(how, p, i)
      x_RD, w_RA, e_RA = _received(how, p, r)
      _, pull_back = jax.vjp(lambda x, w, s: how.own_experts(x, w, e_RA, s), x_RD, w_RA, stacks)
      dx_RD, dw_RA, more = pull_back(_sent(how, r, dy_ND))
      dx_ND += _returned(how, p, i, r, dx_RD)
      dw_NA += _returned(how, p, i, r, dw_RA)
      return dx_ND, dw_NA, jax.tree.map(lambda a, b: a + b.astype(a.dtype), d_stacks, more)

    found = (*_wide((p.x_ND, p.weights_NA)), d_stacks)
    *found, d_stacks = jax.lax.fori_loop(0, _rounds(how, p), turn, found)
    return d_stacks, tuple(found)

  cut = _cut(how, (x_ND, weights_NA, experts_NA, dy_ND))
  d_stacks, (dx, dw) = jax.lax.scan(piece, _wide(stacks), cut)
  d_stacks = jax.tree.map(lambda d, w: d.astype(w.dtype), d_stacks, stacks)
  dw_NA = dw.reshape(weights_NA.shape).astype(weights_NA.dtype)
  return dx.reshape(x_ND.shape).astype(x_ND.dtype), dw_NA, None, d_stacks


exchanged_ffn.defvjp(_forward, _backward)


def _wide(tree: Any) -> Any:
  """Float32 zeros."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), tree)


def _cut(how: Exchange, arrays: tuple) -> Any:
  """[N, ...] -> [pieces, N / pieces, ...]."""
  return jax.tree.map(lambda x: x.reshape(how.pieces, -1, *x.shape[1:]), arrays)


def _piece(how: Exchange, x_ND: jax.Array, weights_NA: jax.Array, experts_NA: jax.Array) -> _Piece:
  """Lays out a piece."""
  peer_NA = experts_NA // how.held
  peer_P11 = jnp.arange(jax.lax.axis_size(how.axis))[:, None, None]
  wanted_PN = (peer_NA == peer_P11).any(axis=-1)
  listed_PN = running_count(wanted_PN)
  place_NA = jnp.take_along_axis(listed_PN.T, peer_NA, axis=1) - 1
  earlier_AA = jnp.tri(peer_NA.shape[1], k=-1, dtype=bool)
  again_NA = ((peer_NA[:, :, None] == peer_NA[:, None, :]) & earlier_AA).any(axis=-1)
  place_NA = jnp.where(again_NA, -1, place_NA)
  return _Piece(x_ND, weights_NA, experts_NA, listed_PN, peer_NA, place_NA)


def running_count(set_PN: jax.Array) -> jax.Array:
  """How many of the elements up to and including each are true, int32, along the last axis.

  In blocks, whose counts are products with a triangle of ones: exact, and compiled quickly.
  """
  block, (P, N) = 128, set_PN.shape
  padded = jnp.pad(set_PN, ((0, 0), (0, -N % block))).reshape(P, -1, block).astype(jnp.float32)
  within = padded @ jnp.triu(jnp.ones((block, block), jnp.float32))
  total = jnp.cumsum(within[..., -1].astype(jnp.int32), axis=1)
  before = jnp.pad(total, ((0, 0), (1, 0)))[:, :-1, None]
  return (within.astype(jnp.int32) + before).reshape(P, -1)[:, :N]


def _rounds(how: Exchange, p: _Piece) -> jax.Array:
  """The rounds that the longest list of all devices takes."""
  longest = jnp.max(p.listed_PN[:, -1])
  return jax.lax.pmax(-(-longest // how.per_round), how.agreeing)


class _Round(NamedTuple):
  """A round's tokens for each device, N for none, and how many go to it and come from it."""

  token_PC: jax.Array
  going_P: jax.Array
  coming_P: jax.Array


def _round(how: Exchange, p: _Piece, i: jax.Array) -> _Round:
  first = i * how.per_round
  place_C = first + jnp.arange(how.per_round) + 1
  token_PC = jax.vmap(lambda listed_N: jnp.searchsorted(listed_N, place_C))(p.listed_PN)
  going_P = jnp.clip(p.listed_PN[:, -1] - first, 0, how.per_round)
  return _Round(token_PC, going_P, _swapped(how, going_P))


def _sent(how: Exchange, r: _Round, x_NX: jax.Array, fill: int = 0) -> jax.Array:
  """Rows of tokens from every device, x_RX; `fill` where there is none."""
  x_PCX = x_NX.at[r.token_PC].get(mode="fill", fill_value=fill)
  return _across(how, x_PCX.reshape(-1, x_NX.shape[1]), r.going_P, r.coming_P)


def _received(how: Exchange, p: _Piece, r: _Round) -> tuple[jax.Array, jax.Array, jax.Array]:
  x_RD, weights_RA = (_sent(how, r, x) for x in (p.x_ND, p.weights_NA))
  return x_RD, weights_RA, _sent(how, r, p.experts_NA, fill=-1)


def _returned(how: Exchange, p: _Piece, i: jax.Array, r: _Round, y_RX: jax.Array) -> jax.Array:
  """The sum of a token's rows that came back in round i, y_NX, float32; a choice at a time."""
  y_RX = _across(how, y_RX, r.coming_P, r.going_P)
  place_NA = p.place_NA - i * how.per_round
  here_NA = (p.place_NA >= 0) & (place_NA >= 0) & (place_NA < how.per_round)
  row_NA = jnp.where(here_NA, p.peer_NA * how.per_round + place_NA, len(y_RX))

  def add(choice: jax.Array, y_NX: jax.Array) -> jax.Array:
    row_N = jax.lax.dynamic_index_in_dim(row_NA, choice, 1, keepdims=False)
    return y_NX + y_RX.at[row_N].get(mode="fill", fill_value=0).astype(jnp.float32)

  start = jnp.zeros((len(row_NA), y_RX.shape[1]), jnp.float32)
  return jax.lax.fori_loop(0, row_NA.shape[1], add, start)


def _across(how: Exchange, x_RX: jax.Array, going_P, coming_P) -> jax.Array:
  """What every device has for this one, its C rows after those of the device before it.

  Of the rows for device p the first `going_P[p]` matter; where nothing came there is what was sent,
  or zero.
  """

  def parts(x_RX, *_):
    x_PCX = x_RX.reshape(-1, how.per_round, x_RX.shape[1])
    return _swapped(how, x_PCX).reshape(x_RX.shape)

  def ragged(x_RX, going_P, coming_P):
    starts_P = jnp.arange(len(going_P)) * how.per_round
    there_P = jnp.full_like(starts_P, jax.lax.axis_index(how.axis) * how.per_round)
    sizes = (starts_P, going_P, there_P, coming_P)
    sizes = (size.astype(jnp.int32) for size in sizes)
    return jax.lax.ragged_all_to_all(x_RX, jnp.zeros_like(x_RX), *sizes, axis_name=how.axis)

  if x_RX.shape[1] % _LANES:  # so little that it does not matter
    return parts(x_RX)
  return jax.lax.platform_dependent(x_RX, going_P, coming_P, tpu=ragged, default=parts)


_LANES = 128  # of a TPU's tile


def _swapped(how: Exchange, x_P: jax.Array) -> jax.Array:
  """The p-th of every device, on device p."""
  return jax.lax.all_to_all(x_P, how.axis, 0, 0, tiled=True)
