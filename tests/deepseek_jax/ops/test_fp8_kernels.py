"""FP8 layers by kernels are the function that the simulation is; the kernels really run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from deepseek_jax.config import ComputeConfig, ConfigError, MoEConfig
from deepseek_jax.ops import routing
from deepseek_jax.ops.dispatch import expert_ffn
from deepseek_jax.ops.feed_forward import feed_forward
from deepseek_jax.ops.linear import from_heads, linear
from deepseek_jax.ops.precision import Precision, precision_of
from deepseek_jax.sharding import MeshConfig, make_mesh
from tests.deepseek_jax.ops.test_precision import assert_mostly_near, moderate

FP8 = ["fp8", "fp8_gradient_blocks"]


def pulled(function, *args):
  """The value and the gradients for one random gradient of the output."""
  y, pull = jax.vjp(jax.jit(function), *args)
  d = moderate(9, y.size).reshape(y.shape)
  return [np.asarray(a, np.float32) for a in (y, *pull(jnp.asarray(d, y.dtype)))]


def assert_same(function, *args, kernels="xla", precision="fp8"):
  by_kernels = pulled(functools.partial(function, precision=Precision(precision, kernels)), *args)
  simulated = pulled(functools.partial(function, precision=Precision(precision)), *args)
  for found, wanted in zip(by_kernels, simulated, strict=True):
    assert_mostly_near(found, wanted)


@pytest.mark.parametrize("precision", FP8)
@pytest.mark.parametrize("shape", [(2, 128, 256, 128), (2, 70, 100, 192), (1, 1, 128, 48)])
def test_a_linear_layer(shape, precision):
  B, T, D, F = shape
  assert_same(linear, moderate(1, B, T, D), moderate(2, D, F), precision=precision)


def test_a_layer_after_attention():
  assert_same(from_heads, moderate(3, 2, 100, 4, 32), moderate(4, 4, 32, 256))


@pytest.mark.parametrize("precision", FP8)
@pytest.mark.parametrize("width", [256, 200])
def test_a_feed_forward(width, precision):
  x, D = moderate(5, 2, 100, 128), 128
  w = [0.1 * moderate(i, *s) for i, s in enumerate([(D, width), (D, width), (width, D)])]
  assert_same(feed_forward, x, *w, precision=precision)


def expert_operands(N=300, E=4, D=128, F=256, top_k=2):
  """Experts 0 to E - 1, of which the last is idle, and E, which is held elsewhere."""
  rng = np.random.default_rng(0)
  chosen = np.stack([rng.permutation([*range(E - 1), E])[:top_k] for _ in range(N)])
  stacks = [0.1 * moderate(i, E, *s) for i, s in enumerate([(D, F), (D, F), (F, D)])]
  weights = rng.uniform(0.1, 1, (N, top_k)).astype(np.float32)
  return chosen.astype(np.int32), (moderate(1, N, D), weights, *stacks)


@pytest.mark.parametrize("precision", FP8)
def test_experts(precision):
  """With as many slots as rows, a tile along tokens holds the same choices in both."""
  chosen, args = expert_operands()

  def run(x, weights, *stacks, precision):
    how = {"precision": precision, "capacity": 384}
    how["implementation"] = "grouped" if precision.by_kernels else "capacity"
    return expert_ffn(x, weights, chosen, *stacks, **how)

  assert_same(run, *args, precision=precision)


def test_routing_s_ranks_spare_a_sort():
  _, (x, _, *stacks) = expert_operands()
  config = MoEConfig(experts=4, top_k=2, expert_ff=256)
  routed = routing.route(moderate(0, len(x), 4), jnp.zeros(4), config)

  def run(routed_or_none):
    how = {"implementation": "grouped", "precision": Precision("fp8"), "routed": routed_or_none}
    given = x, routed.weights_NA, routed.experts_NA, *stacks
    sorts = str(jax.make_jaxpr(lambda *a: expert_ffn(*a, **how))(*given)).count("sort[")
    return expert_ffn(*given, **how), sorts

  (planned, none), (arranged, some) = run(routed), run(None)
  assert none == 0 < some
  np.testing.assert_array_equal(planned, arranged)


def test_bfloat16_experts_are_the_plain_ones_rounded():
  chosen, args = expert_operands()

  def run(x, weights, *stacks, implementation):
    return expert_ffn(x, weights, chosen, *stacks, implementation=implementation)

  plain = pulled(functools.partial(run, implementation="capacity"), *args)
  rounded = pulled(
    functools.partial(run, implementation="grouped"), *(jnp.asarray(a, jnp.bfloat16) for a in args)
  )
  for found, wanted in zip(rounded, plain, strict=True):
    off = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-4 < off < 0.03


def test_auto_takes_the_grouped_form_where_it_can():
  chosen, args = expert_operands()

  def program(precision, dtype, width=256):
    x, weights, gate, up, down = (jnp.asarray(a, dtype) for a in args)
    stacks = gate[..., :width], up[..., :width], down[:, :width]
    run = functools.partial(expert_ffn, precision=precision)
    return str(jax.make_jaxpr(lambda *a: run(a[0], a[1], chosen, *a[2:]))(x, weights, *stacks))

  for precision, dtype, width, calls in (
    (Precision("fp8", "tpu"), jnp.float32, 256, True),
    (Precision("fp8", "off"), jnp.float32, 256, False),
    (Precision("fp8", "tpu"), jnp.float32, 192, False),
    (Precision("plain", "tpu"), jnp.float32, 256, False),
  ):
    assert ("pallas_call" in program(precision, dtype, width)) == calls, (precision, dtype, width)


@pytest.mark.parametrize(
  ("dtype", "width", "words"),
  [(jnp.float32, 256, "multiplies FP8 or bfloat16"), (jnp.bfloat16, 192, "multiples of 128")],
)
def test_what_grouped_kernels_cannot_take_is_one_sentence(dtype, width, words):
  chosen, (x, weights, gate, up, down) = expert_operands()
  stacks = [jnp.asarray(w, dtype) for w in (gate[..., :width], up[..., :width], down[:, :width])]
  with pytest.raises(ConfigError, match=words):
    expert_ffn(jnp.asarray(x, dtype), weights, chosen, *stacks, implementation="grouped")


def test_the_weight_s_gradient_is_float32_where_activations_are_bfloat16():
  x, w = jnp.asarray(moderate(1, 128, 128), jnp.bfloat16), moderate(2, 128, 128)
  assert Precision("fp8", "xla").operand(jnp.asarray(w), x.dtype).dtype == jnp.float32
  assert Precision("fp8").operand(jnp.asarray(w), x.dtype).dtype == jnp.bfloat16

  def run(x, w):
    return linear(x, w, Precision("fp8", "xla"))

  y, pull = jax.vjp(run, x, jnp.asarray(w))
  dx, dw = pull(y)
  assert y.dtype == dx.dtype == jnp.bfloat16
  assert dw.dtype == jnp.float32
  assert np.any(np.asarray(dw) != np.asarray(dw.astype(jnp.bfloat16), np.float32))


def test_tpu_kernels_interpreted():
  chosen, (x, weights, *stacks) = expert_operands(N=100, F=128)
  chosen, stacks = jnp.asarray(chosen), [jnp.asarray(w) for w in stacks]

  def run(x, *stacks, precision):
    y = expert_ffn(x, weights, chosen, *stacks, implementation="grouped", precision=precision)
    return feed_forward(y, *(w[0] for w in stacks), precision)

  def found(kernels):
    return pulled(functools.partial(run, precision=Precision("fp8", kernels)), x, *stacks)

  wanted = found("xla")
  with pltpu.force_tpu_interpret_mode():
    for a, b in zip(found("tpu"), wanted, strict=True):
      assert_mostly_near(a, b)


def test_kernels_are_for_one_device():
  mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
  auto, named = ComputeConfig(precision="fp8"), ComputeConfig(precision="fp8", kernels="xla")
  assert precision_of(auto, mesh) == Precision("fp8", "off")
  assert precision_of(named, None) == Precision("fp8", "xla")
  with pytest.raises(ConfigError, match="kernels is 'xla' on a mesh of 2 devices"):
    precision_of(named, mesh)


def test_auto_is_by_device(monkeypatch):
  assert precision_of(ComputeConfig(), None).kernels == "off"  # a CPU
  for kind in ("tpu", "mgpu"):
    monkeypatch.setattr("pallas_kernels.dispatch.device_kernel", lambda kind=kind: kind)
    assert precision_of(ComputeConfig(), None) == Precision("plain", "auto")
    assert precision_of(ComputeConfig(), None).implementation is None
  assert precision_of(ComputeConfig(kernels="off"), None).implementation == "xla"
