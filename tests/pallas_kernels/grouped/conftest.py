"""Rows of experts, quantised and not, for the tests of grouped matmuls."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.fp8 import ref as fp8
from pallas_kernels.grouped import layout as layouts
from pallas_kernels.grouped import ref


@dataclasses.dataclass(frozen=True)
class Case:
  """Operands of one mixture: x_MK, w_GNK, dy_MN in float32, zero in padding."""

  layout: layouts.Layout
  x_MK: jax.Array
  w_GNK: jax.Array
  dy_MN: jax.Array

  @functools.cached_property
  def rows(self):
    """What m_grouped takes."""
    G, N, K = self.w_GNK.shape
    values, scale = fp8.quantize_blocks(self.w_GNK.reshape(G * N, K))
    w = values.reshape(G, N, K), scale.reshape(G, N // 128, K // 128)
    return *fp8.quantize_rows(self.x_MK), *w, self.layout

  @functools.cached_property
  def columns(self):
    """What k_grouped takes."""
    return *fp8.quantize_columns(self.dy_MN), *fp8.quantize_columns(self.x_MK), self.layout

  @functools.cached_property
  def m_grouped(self):
    """The reference's result, float32."""
    return np.asarray(jax.jit(functools.partial(ref.m_grouped, out_dtype=jnp.float32))(*self.rows))

  @functools.cached_property
  def k_grouped(self):
    return np.asarray(jax.jit(ref.k_grouped)(*self.columns))

  def products(self, x_MK, w_GNK):
    """Unquantised, by loops over the groups in float64."""
    x_MK, w_GNK = (np.asarray(x, np.float64) for x in (x_MK, w_GNK))
    y_MN = np.zeros((x_MK.shape[0], w_GNK.shape[1]))
    for rows, group in self._groups():
      y_MN[rows] = x_MK[rows] @ w_GNK[group].T
    return y_MN

  def matrices(self, dy_MN, x_MK):
    dy_MN, x_MK = (np.asarray(x, np.float64) for x in (dy_MN, x_MK))
    dw_GNK = np.zeros(self.w_GNK.shape)
    for rows, group in self._groups():
      dw_GNK[group] = dy_MN[rows].T @ x_MK[rows]
    return dw_GNK

  def _groups(self):
    edge_H = 128 * np.asarray(self.layout.edge_H)
    return [(slice(*edge_H[g : g + 2]), g) for g in range(self.layout.groups)]


@functools.cache
def _make(counts, N, K, seed):
  keys = jax.random.split(jax.random.key(seed), 3)
  group_R = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
  arrange = jax.jit(layouts.arrange, static_argnums=1)
  layout = arrange(jnp.asarray(group_R, jnp.int32), len(counts))
  x_RK, dy_RN = (jax.random.normal(key, (len(group_R), n)) for key, n in zip(keys, (K, N)))
  w_GNK = jax.random.normal(keys[2], (len(counts), N, K))
  # Magnitudes differ from block to block, so that no scale can stand for another.
  w_GNK *= jnp.exp2(jnp.arange(K // 128).repeat(128) % 5 + (jnp.arange(N) // 128)[:, None])
  return Case(layout, layouts.to_rows(x_RK, layout), w_GNK, layouts.to_rows(dy_RN, layout))


@pytest.fixture(scope="session")
def make_case():
  """make_case(counts of the groups, N, K): the choices' order is random, padding is zero."""
  return lambda counts, N, K, seed=0: _make(tuple(counts), N, K, seed)
