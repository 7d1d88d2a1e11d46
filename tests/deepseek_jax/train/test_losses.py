"""The chunked cross-entropy against the naive one, and targets against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.plan.collectives import collectives
from deepseek_jax.sharding import ROWS, SPLIT, MeshConfig, make_mesh
from deepseek_jax.train import losses
from deepseek_jax.types import Batch
from tests.traced import biggest_array


def arrays(rows, width=8, vocab=23, seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  hidden_ND = jax.random.normal(keys[0], (rows, width))
  head_DV = jax.random.normal(keys[1], (width, vocab))
  targets_N = jax.random.randint(keys[2], (rows,), 0, vocab)
  return hidden_ND, head_DV, targets_N, jax.random.uniform(keys[3], (rows,))


def naive(hidden_ND, head_DV, targets_N):
  logp_NV = jax.nn.log_softmax(hidden_ND @ head_DV)
  picked_N = jnp.take_along_axis(logp_NV, targets_N[:, None], axis=1)[:, 0]
  return picked_N, -jnp.sum(jnp.exp(logp_NV) * logp_NV, axis=1)


@pytest.mark.parametrize(
  ("rows", "chunk", "vocab"), [(12, 64, 23), (12, 4, 23), (13, 5, 23), (1, 1, 23), (13, 5, 512)]
)
def test_token_logprobs_and_entropy_equal_naive_with_gradients(rows, chunk, vocab):
  """512 is added up in blocks."""
  hidden_ND, head_DV, targets_N, weights_N = arrays(rows, vocab=vocab)

  def score(fn, hidden_ND, head_DV):
    logprob_N, entropy_N = fn(hidden_ND, head_DV, targets_N)
    return jnp.sum(weights_N * logprob_N + weights_N**2 * entropy_N), (logprob_N, entropy_N)

  chunked = functools.partial(losses.token_logprobs, chunk=chunk, with_entropy=True)
  ours, theirs = (
    jax.jit(jax.value_and_grad(functools.partial(score, fn), argnums=(0, 1), has_aux=True))(
      hidden_ND, head_DV
    )
    for fn in (chunked, naive)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


@pytest.mark.parametrize(("share", "chunk"), [(0.5, 4), (0.5, 64), (0.0, 4), (1.0, 5)])
def test_rows_not_wanted_are_zero_and_the_others_and_gradients_naive(share, chunk):
  hidden_ND, head_DV, targets_N, weights_N = arrays(13, seed=2)
  wanted_N = jax.random.uniform(jax.random.key(3), (13,)) < share

  def score(fn, hidden_ND, head_DV):
    found = [jnp.where(wanted_N, x_N, 0.0) for x_N in fn(hidden_ND, head_DV, targets_N)]
    return jnp.sum(weights_N * found[0] + weights_N**2 * found[1]), found

  some = functools.partial(losses.token_logprobs, chunk=chunk, with_entropy=True, wanted_N=wanted_N)
  ours, theirs = (
    jax.jit(jax.value_and_grad(functools.partial(score, fn), argnums=(0, 1), has_aux=True))(
      hidden_ND, head_DV
    )
    for fn in (some, naive)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)
  for x_N in some(hidden_ND, head_DV, targets_N):
    assert not np.asarray(x_N)[~np.asarray(wanted_N)].any()


@pytest.mark.parametrize(("rows", "chunk"), [(12, 64), (12, 4), (13, 5)])
def test_cross_entropy_equals_naive_with_gradients(rows, chunk):
  hidden_ND, head_DV, targets_N, weights_N = arrays(rows, seed=1)

  def ours(hidden_ND, head_DV):
    return 0.7 * losses.cross_entropy(hidden_ND, head_DV, targets_N, weights_N, chunk)

  def theirs(hidden_ND, head_DV):
    return -0.7 * jnp.sum(weights_N * naive(hidden_ND, head_DV, targets_N)[0])

  found, wanted = (
    jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))(hidden_ND, head_DV) for fn in (ours, theirs)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)
  np.testing.assert_allclose(ours(hidden_ND, head_DV), wanted[0], rtol=2e-5)  # undifferentiated


@pytest.mark.parametrize(
  ("sizes", "rows"),
  [
    (MeshConfig(fsdp=2, expert=4), 48),
    (MeshConfig(data=2, expert=2, tensor=2), 48),
    (MeshConfig(data=2, fsdp=2, expert=2), 6),  # by two, and the others compute the same
  ],
)
@pytest.mark.parametrize("scored", [False, True])
def test_over_a_mesh_value_and_gradients_are_naive(sizes, rows, scored):
  hidden_ND, head_DV, targets_N, weights_N = arrays(rows, vocab=32, seed=4)
  mesh, wanted_N = make_mesh(sizes), jnp.arange(rows) % 3 > 0

  def ours(hidden_ND, head_DV):
    if not scored:
      return losses.cross_entropy(hidden_ND, head_DV, targets_N, weights_N, 5, mesh)
    found = losses.token_logprobs(hidden_ND, head_DV, targets_N, 2, True, wanted_N, mesh)
    return jnp.sum(weights_N * (found[0] + found[1]))

  def theirs(hidden_ND, head_DV):
    logprob_N, entropy_N = naive(hidden_ND, head_DV, targets_N)
    if not scored:
      return -jnp.sum(weights_N * logprob_N)
    return jnp.sum(jnp.where(wanted_N, weights_N * (logprob_N + entropy_N), 0.0))

  found, wanted = (
    jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))(hidden_ND, head_DV) for fn in (ours, theirs)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


@pytest.mark.parametrize("fused", [True, False])
def test_no_loop_over_chunks_adds_up_over_devices(fused):
  """Else the head's gradient, the largest array there is, is sent in every chunk."""
  mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
  hidden_ND, head_DV, targets_N, weights_N = arrays(64, vocab=32)

  def loss(hidden_ND, head_DV):
    if fused:
      return losses.cross_entropy(hidden_ND, head_DV, targets_N, weights_N, 2, mesh)
    return losses.token_logprobs(hidden_ND, head_DV, targets_N, 2, mesh=mesh)[0].sum()

  places = (NamedSharding(mesh, P(ROWS)), NamedSharding(mesh, P(SPLIT)))
  placed = jax.device_put((hidden_ND, head_DV), places)
  text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*placed).compile().as_text()
  sent = collectives(text, 8)
  assert {one.kind for one in sent} >= {"all-gather"} and all(one.times == 1 for one in sent), sent


def test_logprobs_without_entropy_are_the_same():
  hidden_ND, head_DV, targets_N, _ = arrays(9)
  logprob_N, entropy_N = losses.token_logprobs(hidden_ND, head_DV, targets_N, chunk=4)
  assert entropy_N is None
  np.testing.assert_allclose(logprob_N, naive(hidden_ND, head_DV, targets_N)[0], rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_logits_of_all_rows_never_exist(fused):
  hidden_ND, head_DV, targets_N, weights_N = arrays(64, vocab=200)

  def loss(hidden_ND, head_DV):
    if fused:
      return losses.cross_entropy(hidden_ND, head_DV, targets_N, weights_N, 8)
    return losses.token_logprobs(hidden_ND, head_DV, targets_N, 8)[0].sum()

  assert biggest_array(jax.grad(loss, argnums=(0, 1)), hidden_ND, head_DV) <= 8 * 200


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_shift_targets_equals_a_loop(depth):
  rng = np.random.default_rng(depth)
  rows, width = 3, 11
  segments_BT = np.sort(rng.integers(0, 4, (rows, width)))[:, ::-1]
  batch = Batch(
    tokens_BT=rng.integers(0, 50, (rows, width)),
    positions_BT=np.zeros((rows, width), np.int32),
    segments_BT=segments_BT,
    loss_mask_BT=rng.integers(0, 2, (rows, width)).astype(np.float32),
  )
  targets_BT, weight_BT = losses.shift_targets(jax.tree.map(jnp.asarray, batch), depth)
  for b in range(rows):
    for t in range(width):
      ahead = t + 1 + depth
      counts = ahead < width and segments_BT[b, t] == segments_BT[b, ahead] != 0
      assert weight_BT[b, t] == (batch.loss_mask_BT[b, ahead] if counts else 0)
      if counts:
        assert targets_BT[b, t] == batch.tokens_BT[b, ahead]
