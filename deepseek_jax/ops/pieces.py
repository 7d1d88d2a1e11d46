"""Pieces of arrays, which a loop reads and writes in place: some rows and heads, or some tokens."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.types import Span


class Pieces(NamedTuple):
  """How many parts the rows and the key/value heads of some arrays are cut into.

  Where jit splits these axes over devices, each part has as much of what every device holds, so
  that nothing is sent.
  """

  rows: int
  heads: int
  devices: tuple[int, int] = (1, 1)  # that share rows, and heads

  @property
  def number(self) -> int:
    """How many pieces that makes."""
    return self.rows * self.heads

  def at(self, index: Any) -> "Piece":
    """Piece `index`, which may be traced."""
    return Piece(self, index // self.heads, index % self.heads)


class Piece(NamedTuple):
  """One of them. An array comes with the letters of its leading axes: B are rows, G and H heads."""

  pieces: Pieces
  row: Any
  head: Any

  def take(self, x: jax.Array, letters: str) -> jax.Array:
    """Its part of `x`."""
    shape, sizes, starts = self._within(x, letters)
    part = jax.lax.dynamic_slice(x.reshape(shape), starts, sizes)
    return part.reshape([devices * rest for devices, rest in zip(sizes[::3], sizes[2::3])])

  def put(self, x: jax.Array, part: jax.Array, letters: str) -> jax.Array:
    """`x` with its part replaced, in the dtype of `x`."""
    shape, sizes, starts = self._within(x, letters)
    part = part.astype(x.dtype).reshape(sizes)
    return jax.lax.dynamic_update_slice(x.reshape(shape), part, starts).reshape(x.shape)

  def add(self, x: jax.Array, part: jax.Array, letters: str) -> jax.Array:
    """`x` with `part` added to its part."""
    return self.put(x, self.take(x, letters) + part, letters)

  def span(self, span: Span) -> Span:
    """Of its rows."""
    return Span(self.take(span.positions_BT, "BT"), self.take(span.segments_BT, "BT"))

  def _within(self, x: jax.Array, letters: str) -> tuple[list[int], list[int], list[Any]]:
    """With each axis as three (devices, parts, rest): the shape of `x`, the part's, its start."""
    p = self.pieces
    cuts = {"B": (p.devices[0], p.rows, self.row)}
    cuts |= dict.fromkeys("GH", (p.devices[1], p.heads, self.head))
    shape, sizes, starts = [], [], []
    for letter, size in zip(letters.ljust(x.ndim), x.shape):
      devices, parts, index = cuts.get(letter, (1, 1, 0))
      rest = size // (devices * parts)
      shape += [devices, parts, rest]
      sizes += [devices, 1, rest]
      starts += [0, index, 0]
    return shape, sizes, starts


class Block(NamedTuple):
  """Tokens from `place * length` on; the last block begins earlier, so that it is as long."""

  place: Any
  length: int
  tokens: int  # of the whole axis

  @property
  def start(self) -> Any:
    """Its first token's index."""
    return jnp.minimum(self.place * self.length, self.tokens - self.length)

  def take(self, x: jax.Array, axis: int) -> jax.Array:
    """Its part of `x`."""
    return jax.lax.dynamic_slice_in_dim(x, self.start, self.length, axis)

  def put(self, x: jax.Array, part: jax.Array, axis: int) -> jax.Array:
    """`x` with its part replaced."""
    return jax.lax.dynamic_update_slice_in_dim(x, part, self.start, axis)

  def add(self, x: jax.Array, part: jax.Array, axis: int) -> jax.Array:
    """`x` with `part` added."""
    return self.put(x, self.take(x, axis) + part, axis)

  def span(self, span: Span) -> Span:
    """Of its tokens."""
    return Span(self.take(span.positions_BT, 1), self.take(span.segments_BT, 1))

  def own_T(self) -> jax.Array:
    """Which of its tokens are not in the block before as well."""
    return self.start + jnp.arange(self.length) >= self.place * self.length
