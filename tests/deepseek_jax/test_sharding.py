"""Arrays lie where their names say, and a mesh changes nothing but where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from deepseek_jax import sharding
from deepseek_jax.config import ConfigError
from deepseek_jax.ops.dispatch import expert_ffn
from deepseek_jax.ops.precision import Precision
from deepseek_jax.plan.collectives import collectives
from deepseek_jax.plan.flops import abstract_weights
from deepseek_jax.plan.placement import abstract_mesh, placed
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig, make_mesh, parameter_spec
from deepseek_jax.types import Batch

MESHES = {
  "fsdp8": MeshConfig(fsdp=8),
  "data2_fsdp2_expert2": MeshConfig(data=2, fsdp=2, expert=2),
  "expert4_tensor2": MeshConfig(expert=4, tensor=2),
  "data2_expert2_tensor2": MeshConfig(data=2, expert=2, tensor=2),
}


@pytest.mark.parametrize(
  ("name", "ndim", "spec"),
  [
    ("embed_VD", 2, P("tensor", sharding.SPLIT)),
    ("head_DV", 2, P(sharding.SPLIT, "tensor")),
    ("gate_EDF", 3, P("expert", ("fsdp", "context"), "tensor")),
    ("gate_EDF", 4, P(None, "expert", ("fsdp", "context"), "tensor")),  # a stack of layers
    ("moe/ffn/shared/down_FD", 3, P(None, "tensor", sharding.SPLIT)),
    ("router_DE", 2, P(sharding.SPLIT, None)),
    ("router_bias_LE", 2, P(None, "expert")),
    ("q_down_DQ", 2, P(sharding.SPLIT, None)),  # Q would be too, but D has them
    ("q_up_QHK", 3, P(sharding.SPLIT, "tensor", None)),
    ("k_bias_GK", 3, P(None, "tensor", None)),
    ("merge_WD", 2, P(None, sharding.SPLIT)),
    ("norm_D", 1, P()),  # vectors stay whole
    ("norm_D", 2, P()),
    ("tokens_BT", 3, P(None, sharding.ROWS, "context")),  # micro-batches
    ("latent_LBSC", 4, P(None, sharding.ROWS, None, None)),  # C is whole, as it is no weight's
    ("count", 0, P()),
    ("embed_VD", 0, P()),  # a scalar kept per parameter
    ("kernel", 2, P()),
  ],
)
def test_parameter_spec(name, ndim, spec):
  assert parameter_spec(name, ndim) == spec


def test_every_parameter_name_can_be_placed():
  with pytest.raises(ValueError, match="gate_EDF has 2 axes, but its name says 3"):
    parameter_spec("gate_EDF", 2)


def test_no_spec_names_a_mesh_axis_twice():
  letters = "BNDQCEHGFVKRUL"
  for name in (a + b + c for a in letters for b in letters for c in letters):
    used = [axis for e in parameter_spec(f"x_{name}", 3) if e for axis in np.atleast_1d(e)]
    assert len(used) == len(set(used)), name


@pytest.mark.parametrize("bad", [MeshConfig(data=2), MeshConfig(data=4, tensor=4)])
def test_mesh_takes_every_device(bad):
  with pytest.raises(ConfigError, match=rf"= {bad.devices} devices, but there are 8"):
    make_mesh(bad)


def test_mesh_sizes_are_positive():
  with pytest.raises(ConfigError, match=r"mesh\.expert is 0"):
    MeshConfig(expert=0)


def test_all_ones_is_one_device():
  assert list(make_mesh(MeshConfig()).devices.flat) == jax.devices()[:1]


def test_axis_that_does_not_divide_stays_whole():
  mesh = make_mesh(MeshConfig(data=2, tensor=4))
  tree = {"k_DGK": jnp.zeros((6, 2, 8)), "q_DHK": jnp.zeros((6, 4, 8))}
  placed = sharding.state_shardings(mesh, tree)
  assert placed["k_DGK"].spec == P(None, None, None)  # two heads cannot lie on four devices
  assert placed["q_DHK"].spec == P(None, "tensor", None)


def test_an_axis_is_split_by_those_of_its_mesh_axes_that_divide_it():
  mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
  tree = {
    name: jnp.zeros(shape)
    for name, shape in (("a_DK", (12, 1)), ("b_DK", (6, 1)), ("c_DK", (8, 1)), ("x_BT", (2, 3)))
  }
  placed = sharding.state_shardings(mesh, tree)
  assert placed["a_DK"].spec == P("expert", None)  # twelve by four, not by eight
  assert placed["b_DK"].spec == P("fsdp", None)
  assert placed["c_DK"].spec == P(("fsdp", "expert"), None)
  assert placed["x_BT"].spec == P("fsdp", None)


def test_a_large_models_weights_are_split_in_whole_tiles():
  """Which a TPU gathers as they lie; the embedding alone is split too seldom otherwise."""
  config = MeshConfig(fsdp=8, expert=64)
  params = abstract_weights(preset("v3_671b")).params
  arrays = placed(config, params)
  places = jax.tree.leaves(sharding.state_shardings(abstract_mesh(config), params))
  for array, leaf, where in zip(arrays, jax.tree.leaves(params), places, strict=True):
    if leaf.ndim < 2 or not array.axes or array.path == "embed_VD":
      continue
    *_, rows, lanes = where.shard_shape(leaf.shape)
    assert lanes % 128 == 0 or lanes == leaf.shape[-1], array.path
    assert rows % 16 == 0 or rows == leaf.shape[-2], array.path
  held = sum(array.shard for array in arrays)
  assert held == pytest.approx(sum(array.size for array in arrays) / 512, rel=0.05)


@pytest.mark.parametrize(
  ("name", "shape", "spec"),
  [
    ("up_DF", (256, 1024), P(("fsdp", "expert"), None)),  # 32 rows
    ("up_DF", (64, 1024), P("fsdp", "expert")),  # all on D would be 8 rows
    ("out_HUD", (8, 32, 512), P("expert", None, "fsdp")),
    (
      "up_DF",
      (24, 8),
      P(("fsdp", "expert"), None),
    ),  # no whole tiles in either: D as far as it goes
    ("kv_down_DC", (256, 96), P(("fsdp", "expert"), None)),
    ("kv_down_DC", (64, 96), P("expert", None)),  # four ways in whole tiles rather than eight
  ],
)
def test_whole_tiles_come_before_more_ways(name, shape, spec):
  mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
  assert sharding.state_shardings(mesh, {name: jnp.zeros(shape)})[name].spec == spec


def test_experts_must_divide():
  mesh = make_mesh(MeshConfig(data=2, expert=4))
  with pytest.raises(ConfigError, match=r"gate_EDF holds 6 experts; .* mesh\.expert, 4"):
    sharding.state_shardings(mesh, {"gate_EDF": jnp.zeros((6, 4, 4))})


def test_moments_lie_where_their_parameters_do():
  mesh = make_mesh(MESHES["data2_fsdp2_expert2"])
  params = {"moe": {"gate_EDF": jnp.zeros((3, 4, 8, 6))}, "norm_D": jnp.zeros(8)}
  state = {"params": params, "opt_state": optax.adamw(1e-3).init(params), "step": jnp.zeros(())}
  placed = sharding.state_shardings(mesh, state)
  adam = placed["opt_state"][0]
  assert placed["params"] == adam.mu == adam.nu
  assert placed["params"]["moe"]["gate_EDF"].spec == P(None, "expert", "fsdp", None)
  assert placed["params"]["norm_D"].spec == adam.count.spec == placed["step"].spec == P()


def test_batch_rows_are_split_also_behind_micro_batches():
  mesh = make_mesh(MESHES["data2_fsdp2_expert2"])
  rows = np.arange(3 * 8 * 5).reshape(3, 8, 5)
  batch = sharding.shard_batch(mesh, Batch(rows, rows, rows, rows.astype(np.float32)))
  assert {s.data.shape for s in batch.tokens_BT.addressable_shards} == {(3, 1, 5)}
  np.testing.assert_array_equal(batch.tokens_BT, rows)
  with pytest.raises(ConfigError, match=r"6 rows; .* mesh\.data \* mesh\.fsdp \* mesh\.expert, 8"):
    sharding.shard_batch(mesh, Batch(*(4 * [np.zeros((6, 5))])))


def test_state_is_created_in_shards():
  mesh = make_mesh(MESHES["data2_fsdp2_expert2"])

  def create(key):
    return {"gate_EDF": jax.random.normal(key, (8, 64, 64)), "step": jnp.zeros((), jnp.int32)}

  key = jax.random.key(0)
  state = sharding.init_sharded(create, mesh, key)
  assert {s.data.shape for s in state["gate_EDF"].addressable_shards} == {(4, 32, 64)}
  alone = sharding.init_sharded(create, None, key)
  np.testing.assert_array_equal(state["gate_EDF"], alone["gate_EDF"])

  placed = jax.tree.map(lambda x: x.sharding, state)
  program = jax.jit(create, out_shardings=placed).lower(key).compile().as_text()
  assert "f32[4,32,64]" in program
  assert "[8,64,64]" not in program  # nor is any intermediate ever whole


def expert_arguments(tokens: int, experts: int = 8, width: int = 6):
  """Random arguments of `expert_ffn`; three experts per token, those of the first tokens equal."""
  keys = jax.random.split(jax.random.key(1), 6)
  D, A = 16, 3
  scores_NE = jax.random.normal(keys[0], (tokens, experts)).at[: tokens // 2, 0].set(9.0)
  weights_NA, experts_NA = jax.lax.top_k(jax.nn.softmax(scores_NE), A)
  x_ND = jax.random.normal(keys[1], (tokens, D))
  shapes = ((experts, D, width), (experts, D, width), (experts, width, D))
  stacks = [jax.random.normal(k, s) / s[1] ** 0.5 for k, s in zip(keys[2:5], shapes, strict=True)]
  return x_ND, weights_NA, experts_NA, *stacks


def value_and_gradients(fn, arguments):
  """The output of an expert FFN, and the gradients of a function of it in all but the choices."""

  def loss(x_ND, weights_NA, gate, up, down):
    y_ND = fn(x_ND, weights_NA, arguments[2], gate, up, down)
    return jnp.sum(jnp.sin(y_ND) * jnp.arange(y_ND.shape[1])), y_ND

  grads, y_ND = jax.jit(jax.grad(loss, argnums=range(5), has_aux=True))(
    *(a for i, a in enumerate(arguments) if i != 2)
  )
  return y_ND, grads


@pytest.fixture(scope="module")
def expected_of_one_device():
  return value_and_gradients(expert_ffn, expert_arguments(tokens=32))


@pytest.mark.parametrize(
  ("mesh_name", "implementation"),
  [
    ("fsdp8", "capacity"),
    ("data2_fsdp2_expert2", "dense"),
    ("data2_fsdp2_expert2", "capacity"),
    ("expert4_tensor2", "dense"),
    ("expert4_tensor2", "capacity"),
  ],
)
def test_sharded_experts_equal_one_device(mesh_name, implementation, expected_of_one_device):
  mesh = make_mesh(MESHES[mesh_name])

  def sharded(*args):
    return sharding.sharded_expert_ffn(mesh, *args, implementation=implementation)

  found = value_and_gradients(sharded, expert_arguments(tokens=32))
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), found, expected_of_one_device)


def test_sharded_experts_round_as_one_device_does():
  mesh = make_mesh(MeshConfig(expert=4), jax.devices()[:4])
  how = {"implementation": "capacity", "precision": Precision("fp8")}
  arguments = expert_arguments(tokens=32)
  expected = value_and_gradients(functools.partial(expert_ffn, **how), arguments)
  run = functools.partial(sharding.sharded_expert_ffn, mesh, **how)
  found = value_and_gradients(run, arguments)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), found, expected)
  plain = value_and_gradients(expert_ffn, arguments)
  with pytest.raises(AssertionError):
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), found, plain)


@pytest.mark.parametrize(("tokens", "width"), [(3, 6), (8, 5)])
def test_sharded_experts_where_rows_or_width_do_not_divide(tokens, width):
  mesh = make_mesh(MESHES["data2_expert2_tensor2"])
  arguments = expert_arguments(tokens, width=width)
  expected = value_and_gradients(expert_ffn, arguments)
  found = value_and_gradients(lambda *args: sharding.sharded_expert_ffn(mesh, *args), arguments)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), found, expected)


def assert_close(found, expected, tolerance: float):
  """|found - expected| <= tolerance * |expected|, as norms of whole arrays."""
  found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
  difference = np.linalg.norm(found - expected)
  assert difference <= tolerance * np.linalg.norm(expected), difference / np.linalg.norm(expected)


def test_attention_is_split_where_its_rows_and_heads_divide():
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  assert sharding.attention_split(mesh, 8, 6) == (4, 2)
  assert sharding.attention_split(mesh, 6, 3) == (1, 1)
  assert sharding.attention_split(None, 8, 6) == (1, 1)


@pytest.mark.parametrize(
  "mesh",
  [*MESHES.values(), MeshConfig(fsdp=2, context=4), MeshConfig(fsdp=2, expert=2, context=2)],
  ids=str,
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_product_on_own_tokens_is_the_product_and_its_gradients(mesh, flat):
  mesh = make_mesh(mesh)
  x_BTD = jax.random.normal(jax.random.key(0), (8, 4, 16))
  x = x_BTD.reshape(-1, 16) if flat else x_BTD
  weights = [jax.random.normal(jax.random.key(n), (8, 16, 16)) / 4 for n in (1, 2)]

  def loss(mesh, x, *weights):
    def layer(x, weights):
      named = dict(zip(("gate_DF", "down_FD"), weights))
      return jnp.sin(sharding.on_own_tokens(mesh, lambda x, a, b: x @ a @ b, x, named)), None

    return jnp.cos(jax.lax.scan(layer, x, weights)[0]).sum()

  gradients = jax.jit(jax.value_and_grad(loss, argnums=(1, 2, 3)), static_argnums=0)
  expected = gradients(None, x, *weights)
  placed = [shard(mesh, w, name) for w, name in zip(weights, ("gate_DF", "down_FD"))]
  found = gradients(mesh, x, *placed)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, expected)
  kept = jax.eval_shape(lambda *args: jax.vjp(functools.partial(loss, mesh), *args)[1], x, *placed)
  # What goes into eight layers, and the weights; on every device whole they would be larger.
  assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= 8 * x.size
  assert 8 * x.size < 4 * weights[0].size


def shard(mesh, w, name):
  return jax.device_put(w, sharding.state_shardings(mesh, {name: w})[name])


def test_a_weights_gradient_is_added_up_where_it_lies():
  mesh, x_ND = make_mesh(MeshConfig(fsdp=2, expert=4)), jnp.ones((32, 16))
  w_DF = shard(mesh, jnp.ones((16, 24)), "gate_DF")

  def loss(x_ND, w_DF):
    return jnp.sin(sharding.on_own_tokens(mesh, jnp.matmul, x_ND, {"gate_DF": w_DF})).sum()

  where = jax.device_put(x_ND, jax.NamedSharding(mesh, P(sharding.TOKENS)))
  text = jax.jit(jax.grad(loss, argnums=1)).lower(where, w_DF).compile().as_text()
  sent = collectives(text, 8)
  assert {one.kind for one in sent if one.sent} == {"all-gather", "reduce-scatter"}


def test_tokens_that_not_all_devices_share_are_left_to_jit():
  mesh, w_DF = make_mesh(MeshConfig(fsdp=8)), jnp.ones((16, 24))
  traced = jax.make_jaxpr(lambda x: sharding.on_own_tokens(mesh, jnp.matmul, x, {"gate_DF": w_DF}))(
    jnp.ones((4, 1, 16))
  )
  assert "shard_map" not in str(traced)
