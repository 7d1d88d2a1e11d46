"""Routed experts equal a loop over tokens, in values and gradients, at any load."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from deepseek_jax.config import ConfigError
from deepseek_jax.ops.dispatch import default_capacity, expert_ffn
from deepseek_jax.ops.slots import assign

D, F = 12, 10


def naive(x_ND, weights_NA, experts_NA, gate_EDF, up_EDF, down_EFD, dy_ND):
  """One token's one choice at a time, in NumPy: y and the five gradients, derived by hand."""
  given = (x_ND, weights_NA, gate_EDF, up_EDF, down_EFD, dy_ND)
  x, weights, gate, up, down, dy = (np.asarray(v, np.float64) for v in given)
  y, dx, dw, dgate, dup, ddown = (np.zeros_like(v) for v in (x, x, weights, gate, up, down))
  for n, row in enumerate(np.asarray(experts_NA)):
    for a, e in enumerate(row):
      g, u, w = x[n] @ gate[e], x[n] @ up[e], weights[n, a]
      s = 1 / (1 + np.exp(-g))
      h = g * s * u
      y[n] += w * (h @ down[e])
      dw[n, a] = dy[n] @ (h @ down[e])
      dh = w * (down[e] @ dy[n])
      dg, du = dh * u * s * (1 + g * (1 - s)), dh * g * s
      ddown[e] += w * np.outer(h, dy[n])
      dgate[e] += np.outer(x[n], dg)
      dup[e] += np.outer(x[n], du)
      dx[n] += gate[e] @ dg + up[e] @ du
  return y, dx, dw, dgate, dup, ddown


def distinct_choices(rng, tokens, top_k, experts):
  return np.stack([rng.permutation(experts)[:top_k] for _ in range(tokens)]).astype(np.int32)


def inputs(seed, tokens, top_k, experts, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  shapes = ((tokens, D), (experts, D, F), (experts, D, F), (experts, F, D))
  x, gate, up, down = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
  weights = jnp.asarray(rng.uniform(0.1, 1, (tokens, top_k)), jnp.float32)
  return x, weights, jnp.asarray(distinct_choices(rng, tokens, top_k, experts)), gate, up, down


@functools.partial(jax.jit, static_argnames=("implementation", "capacity"))
def value_and_gradients(x, weights, experts, gate, up, down, dy, **options):
  def run(x, weights, gate, up, down):
    return expert_ffn(x, weights, experts, gate, up, down, **options)

  y, pull = jax.vjp(run, x, weights, gate, up, down)
  return (y, *pull(dy))


def assert_same(got, wanted, tolerance=1e-5):
  for name, g, w in zip(("y", "dx", "dweights", "dgate", "dup", "ddown"), got, wanted):
    scale = max(1.0, float(np.abs(w).max()))
    np.testing.assert_allclose(
      np.asarray(g, np.float32), w, rtol=0, atol=tolerance * scale, err_msg=name
    )


@pytest.mark.parametrize(
  ("tokens", "top_k", "experts", "implementation", "capacity"),
  [
    (23, 2, 8, "dense", None),
    (23, 2, 8, "capacity", None),
    (23, 2, 8, "auto", None),
    (23, 2, 8, "capacity", 0),  # the second pass alone
    (23, 2, 8, "capacity", 2),  # both
    (23, 1, 3, "capacity", 64),  # the first alone
    (5, 4, 16, "capacity", None),  # fewer choices than experts
    (1, 1, 1, "capacity", None),
    (17, 6, 6, "capacity", None),  # every expert chosen by every token
  ],
)
def test_equals_a_loop_over_tokens(tokens, top_k, experts, implementation, capacity):
  args = inputs(tokens + experts, tokens, top_k, experts)
  dy = jnp.asarray(np.random.default_rng(0).normal(size=(tokens, D)), jnp.float32)
  got = value_and_gradients(*args, dy, implementation=implementation, capacity=capacity)
  assert_same(got, naive(*args, dy))


@pytest.mark.parametrize("favourite", [0, 3, 7])
def test_all_tokens_to_one_expert_and_none_is_dropped(favourite):
  """150 tokens overflow into three blocks of the second pass; the other experts stay idle."""
  x, weights, _, *stacks = inputs(favourite, 150, 1, 8)
  args = (x, weights, jnp.full((150, 1), favourite, jnp.int32), *stacks)
  dy = jnp.cos(x)
  got = value_and_gradients(*args, dy, implementation="capacity", capacity=None)
  assert default_capacity(150, 1, 8) < 150 - 2 * 32
  assert_same(got, naive(*args, dy))


@pytest.mark.parametrize("seed", range(12))
def test_any_split_of_the_experts_adds_up_to_the_whole(seed):
  """By property: random loads, ranges and capacities, all in the one shape that is compiled."""
  rng = np.random.default_rng(seed)
  x, weights, _, *stacks = inputs(seed, 30, 3, 8)
  skew = rng.exponential(size=8) ** rng.integers(0, 4)
  experts = np.stack(
    [rng.choice(8, 3, replace=False, p=(skew + 1e-3) / (skew + 1e-3).sum()) for _ in range(30)]
  )
  experts = jnp.asarray(experts, jnp.int32)
  dy = jnp.sin(x)
  wanted = value_and_gradients(
    x, weights, experts, *stacks, dy, implementation="dense", capacity=None
  )
  capacity = int(rng.choice([0, 2, 16]))
  total, gradients = None, []
  for first in (0, 4):
    part = [w[first : first + 4] for w in stacks]
    y, dx, dw, *d_stacks = value_and_gradients(
      x, weights, experts, *part, dy, implementation="capacity", capacity=capacity,
      first_expert=first,
    )  # fmt: skip
    total = (y, dx, dw) if total is None else tuple(p + q for p, q in zip(total, (y, dx, dw)))
    gradients.append(d_stacks)
  assert_same((*total, *(jnp.concatenate(d) for d in zip(*gradients))), wanted)


@pytest.mark.parametrize("implementation", ["dense", "capacity"])
def test_choices_of_experts_held_elsewhere_contribute_nothing(implementation):
  x, weights, experts, *stacks = inputs(3, 20, 2, 8)
  y, *gradients = value_and_gradients(
    x, weights, experts, *stacks, x, implementation=implementation, capacity=None, first_expert=8
  )
  assert not np.any(y)
  assert not any(np.any(g) for g in gradients)


@pytest.mark.parametrize("capacity", [None, 2])
def test_bfloat16_stays_bfloat16_and_near(capacity):
  args = inputs(5, 40, 2, 8, jnp.bfloat16)
  dy = jnp.cos(args[0])
  got = value_and_gradients(*args, dy, implementation="capacity", capacity=capacity)
  assert [g.dtype for g in got] == [jnp.bfloat16] * 2 + [jnp.float32] + [jnp.bfloat16] * 3
  assert_same(got, naive(*args, dy), tolerance=3e-2)


def test_float32_weights_meet_bfloat16_tokens():
  x, *rest = inputs(6, 24, 2, 8)
  run = functools.partial(expert_ffn, implementation="capacity")
  assert jax.eval_shape(run, x.astype(jnp.bfloat16), *rest).dtype == jnp.bfloat16


def test_scanned_and_rematerialised():
  x, weights, experts, *stacks = inputs(7, 40, 2, 8)
  layers = [jnp.stack([0.3 * w, 0.2 * w]) for w in stacks]

  def loss(layers, x, implementation, wrap):
    @wrap
    def layer(x, stacks):
      return x + expert_ffn(x, weights, experts, *stacks, implementation=implementation), None

    return jnp.sum(jax.lax.scan(layer, x, layers)[0] ** 2)

  run = jax.jit(jax.grad(loss), static_argnums=(2, 3))
  wanted = run(layers, x, "dense", lambda f: f)
  got = run(layers, x, "capacity", jax.checkpoint)
  for g, w in zip(got, wanted):
    np.testing.assert_allclose(g, w, rtol=0, atol=1e-5 * float(jnp.abs(w).max()))


@pytest.mark.parametrize("capacity", [None, 2])
def test_inside_shard_map(capacity):
  """Two devices, each with half of the experts: values and gradients are those of one."""
  x, weights, experts, *stacks = inputs(8, 40, 2, 8)
  mesh = Mesh(np.array(jax.devices()[:2]), ("expert",))
  sharded, whole = PartitionSpec("expert"), PartitionSpec()

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(whole, whole, sharded, sharded, sharded),
    out_specs=whole,
    check_vma=False,
  )
  def run(x, weights, gate, up, down):
    first = jax.lax.axis_index("expert") * gate.shape[0]
    y = expert_ffn(
      x, weights, experts, gate, up, down,
      implementation="capacity", first_expert=first, capacity=capacity,
    )  # fmt: skip
    return jax.lax.psum(y, "expert")

  y, pull = jax.vjp(jax.jit(run), x, weights, *stacks)
  wanted = value_and_gradients(
    x, weights, experts, *stacks, jnp.cos(x), implementation="dense", capacity=None
  )
  assert_same((y, *pull(jnp.cos(x))), wanted)


def test_slots_hold_every_choice_once():
  """Each choice is in its expert's slot or in its expert's run beyond the slots."""
  rng = np.random.default_rng(9)
  experts_NA = distinct_choices(rng, 50, 3, 7) - 1  # -1 and 5 lie outside
  slots = jax.jit(assign, static_argnums=(1, 2))(jnp.asarray(experts_NA), 5, 16)
  seen = []
  for e in range(5):
    start, count = int(slots.start_E[e]), int(slots.count_E[e])
    run = np.asarray(slots.order_I[start : start + count])
    assert set(run) == set(np.flatnonzero(experts_NA.reshape(-1) == e))
    assert np.array_equal(slots.item_EC[e][slots.filled_EC[e]], run[:16])
    seen += list(run)
  slotted = np.asarray(slots.slotted_NA)
  items = np.asarray(slots.item_EC).reshape(-1)[np.asarray(slots.slot_NA)[slotted]]
  assert np.array_equal(items, np.flatnonzero(slotted.reshape(-1)))
  assert len(seen) == len(set(seen)) == np.sum((experts_NA >= 0) & (experts_NA < 5))


def test_no_work_grows_with_the_number_of_experts():
  """Matmul FLOPs at 128 experts, as XLA counts them, are those at 32."""

  def flops(experts):
    def loss(x, weights, chosen, gate, up, down):
      return jnp.sum(expert_ffn(x, weights, chosen, gate, up, down, implementation="capacity"))

    args = inputs(0, 8192, 4, experts)
    step = jax.jit(jax.grad(loss, argnums=(0, 1, 3, 4, 5)))
    return step.lower(*args).compile().cost_analysis()["flops"]

  assert flops(128) < 1.1 * flops(32)


def test_an_unknown_implementation_is_named():
  with pytest.raises(ConfigError, match="ragged"):
    expert_ffn(*inputs(0, 4, 1, 2), implementation="ragged")
