"""Tokens exchanged between devices get what one device with all experts gives them, at any load."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from deepseek_jax.ops import exchange
from deepseek_jax.ops.dispatch import expert_ffn
from deepseek_jax.ops.exchange import Exchange, exchanged_ffn, measures
from deepseek_jax.sharding import MeshConfig, make_mesh

D, F, E, A = 8, 6, 16, 3
AXES = ("data", "expert")


def chosen(kind: str, tokens: int) -> np.ndarray:
  """int32 [N, A]: choices that are even, or all on one expert, or on one device's."""
  rng = np.random.default_rng(0)
  choices = np.stack([rng.permutation(E)[:A] for _ in range(tokens)])
  if kind == "one expert":  # for all their first choice
    choices[:, 0] = 5
    others = np.delete(np.arange(E), 5)
    choices[:, 1:] = np.stack([rng.permutation(others)[: A - 1] for _ in choices])
  if kind == "one device":  # experts 4 to 7 where four devices hold four each
    choices = np.stack([4 + rng.permutation(4)[:A] for _ in range(tokens)])
  return choices.astype(np.int32)


def arguments(kind: str, tokens: int):
  keys = jax.random.split(jax.random.key(0), 5)
  shapes = ((E, D, F), (E, D, F), (E, F, D))
  stacks = tuple(jax.random.normal(k, s) for k, s in zip(keys, shapes))
  weights_NA = jax.nn.softmax(jax.random.normal(keys[3], (tokens, A)))
  return jax.random.normal(keys[4], (tokens, D)), weights_NA, chosen(kind, tokens), stacks


def value_and_gradients(ffn, x_ND, weights_NA, experts_NA, stacks):
  def loss(x_ND, weights_NA, stacks):
    y_ND = ffn(x_ND, weights_NA, experts_NA, stacks)
    return jnp.sum(jnp.sin(y_ND) * jnp.arange(D)), y_ND

  return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(x_ND, weights_NA, stacks)


def alone(x_ND, weights_NA, experts_NA, stacks):
  return expert_ffn(x_ND, weights_NA, experts_NA, *stacks)


def own(held: int, x_RD, weights_RA, experts_RA, stacks):
  first = jax.lax.axis_index("expert") * held
  return expert_ffn(x_RD, weights_RA, experts_RA, *stacks, first_expert=first)


def spread(pieces: int, per_round: int, devices: int):
  """`exchanged_ffn` of tokens over 8 devices, whose experts are over `devices` of them."""
  mesh = make_mesh(MeshConfig(data=8 // devices, expert=devices))
  held = E // devices
  how = Exchange("expert", AXES, held, pieces, per_round, functools.partial(own, held))
  rows, experts = P(AXES), P("expert")
  return jax.shard_map(
    functools.partial(exchanged_ffn, how),
    mesh=mesh,
    in_specs=(rows, rows, rows, experts),
    out_specs=rows,
    check_vma=False,
  )


@pytest.mark.parametrize("kind", ["even", "one expert", "one device"])
@pytest.mark.parametrize(
  ("pieces", "per_round", "devices"), [(1, 1, 4), (2, 2, 4), (3, 5, 8), (1, 6, 2)]
)
def test_any_load_in_any_number_of_pieces_and_rounds(kind, pieces, per_round, devices):
  given = arguments(kind, tokens=48)
  found = value_and_gradients(spread(pieces, per_round, devices), *given)
  expected = value_and_gradients(alone, *given)
  jax.tree.map(assert_near, found, expected)


@pytest.mark.parametrize("kind", ["even", "one expert", "one device"])
@pytest.mark.parametrize(("pieces", "per_round", "devices"), [(2, 2, 4), (3, 5, 8), (1, 6, 2)])
def test_only_tokens_that_there_are_need_to_be_sent(kind, pieces, per_round, devices, monkeypatch):
  """As on a TPU, with what it does for `ragged_all_to_all` written out."""
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, tpu, default: tpu(*args))
  monkeypatch.setattr(jax.lax, "ragged_all_to_all", ragged_all_to_all)
  monkeypatch.setattr(exchange, "_LANES", D)
  given = arguments(kind, tokens=48)
  found = value_and_gradients(spread(pieces, per_round, devices), *given)
  expected = value_and_gradients(alone, *given)
  jax.tree.map(assert_near, found, expected)


def ragged_all_to_all(operand, output, *sizes, axis_name):
  """By JAX's description, from everything of everyone; NaN where sizes do not agree."""
  everyone = jax.lax.all_gather((operand, *sizes[:3]), axis_name)
  me, row = jax.lax.axis_index(axis_name), jnp.arange(len(output))
  for sender, (theirs, first, size, start) in enumerate(zip(*everyone)):
    place = row - start[me]
    came = (place >= 0) & (place < size[me])
    rows = theirs.at[first[me] + place].get(mode="fill", fill_value=jnp.nan)
    rows = jnp.where(size[me] == sizes[3][sender], rows, jnp.nan)
    output = jnp.where(came[:, None], rows, output)
  return output


def assert_near(found, expected):
  """Within 1e-5 of the norm of the array."""
  assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def laid_out(experts_NA: np.ndarray, per_round: int, devices: int):
  """The rounds of a piece that every device has, and what goes to each device in them."""
  mesh = make_mesh(MeshConfig(expert=devices), jax.devices()[:devices])
  how = Exchange("expert", ("expert",), E // devices, 1, per_round, lambda *_: None)

  def run(experts_NA):
    piece = exchange._piece(how, experts_NA, experts_NA, experts_NA)
    rounds = jax.vmap(lambda i: exchange._round(how, piece, i).token_PC)(
      jnp.arange(len(experts_NA))
    )
    return exchange._rounds(how, piece), rounds

  run = jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
  return jax.device_get(run(experts_NA))


def test_a_token_goes_once_to_each_device_that_holds_one_of_its_experts():
  experts_NA, devices = chosen("even", tokens=20), 4
  rounds, token_IPC = laid_out(experts_NA, per_round=4, devices=devices)
  holders = [set(row // (E // devices)) for row in experts_NA]
  listed = [[n for n, holding in enumerate(holders) if p in holding] for p in range(devices)]
  for device, wanted in enumerate(listed):
    found = token_IPC[:, device].ravel()
    assert found[: len(wanted)].tolist() == wanted and (found[len(wanted) :] == 20).all()
  assert rounds == math.ceil(max(map(len, listed)) / 4)
  assert sum(map(len, holders)) < experts_NA.size  # some choices travel together


@pytest.mark.parametrize("shape", [(1, 1), (3, 127), (2, 128), (4, 300), (1, 1000)])
def test_a_running_count_is_a_cumulative_sum(shape):
  set_PN = np.random.default_rng(0).random(shape) < 0.4
  np.testing.assert_array_equal(exchange.running_count(set_PN), np.cumsum(set_PN, axis=1))


@pytest.mark.parametrize(
  ("tokens", "reach", "devices"), [(16_384, 7.27, 64), (4096, 8, 8), (7, 3, 4), (1, 8, 256)]
)
def test_a_round_holds_the_even_loads_of_a_piece_and_is_bounded(tokens, reach, devices):
  pieces, per_round = measures(tokens, reach, devices)
  piece = tokens // pieces
  assert piece * pieces == tokens and per_round <= piece
  assert per_round >= min(piece, piece * reach / devices)
  assert per_round * devices <= 1.3 * exchange.ROUND_ROWS
  assert per_round == piece or per_round < 128 or per_round % 128 == 0
