"""Every form of absorbed decoding against the reference, its properties, and mutations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat, dispatch
from pallas_kernels.mla import api, mgpu, ref, tpu, xla
from pallas_kernels.testing import races
from pallas_kernels.testing.oracles import calc_diff, max_relative

needs_mgpu = pytest.mark.skipif(not compat.HAS_MGPU, reason="jax is older than 0.11.2")
LATENT, ROPE, SLOTS = 128, 64, 5 * 64 + 8  # six tiles of slots: each stage is used three times
OPTIONS = {"latent": LATENT, "scale": (LATENT + ROPE) ** -0.5}


def _tpu(*args, block=128, **options):
  interpret = compat.tpu_interpreter(detect_races=True, uninitialized_memory="nan")
  return tpu.decode(*args, **OPTIONS, block=block, interpret=interpret, **options)


def _mgpu(*args, **options):
  interpret = compat.gpu_interpreter(detect_races=True)
  return mgpu.decode(*args, **OPTIONS, interpret=interpret, **options)


KERNELS = {
  "tpu": _tpu,
  "mgpu whole": functools.partial(_mgpu, parts=1),
  "mgpu in parts": functools.partial(_mgpu, parts=2),
}
kernels = pytest.mark.parametrize(
  "kernel", ["tpu", *(pytest.param(k, marks=needs_mgpu) for k in KERNELS if k != "tpu")]
)


def _inputs(heads=16, dtype=jnp.float32, latent=LATENT):
  """Three rows: one right-aligned with holes, one full, one empty. What is not valid is NaN."""
  keys = jax.random.split(jax.random.key(0))
  q_BHX = jax.random.normal(keys[0], (3, heads, latent + ROPE)).astype(jnp.bfloat16)
  kv_BSX = jax.random.normal(keys[1], (3, SLOTS, latent + ROPE)).astype(jnp.bfloat16)
  slot_S = jnp.arange(SLOTS)
  holes_S = (slot_S >= 70) & (slot_S < SLOTS - 3) & (slot_S % 97 != 5)
  holes_S &= (slot_S < 128) | (slot_S >= 192)  # a whole tile
  valid_BS = jnp.stack([holes_S, slot_S >= 0, slot_S < 0])
  return q_BHX.astype(dtype), jnp.where(valid_BS[..., None], kv_BSX, jnp.nan), valid_BS


def _reference(q_BHX, kv_BSX, valid_BS, **options):
  return ref.decode(q_BHX.astype(jnp.float32), kv_BSX, valid_BS, **(OPTIONS | options))


@kernels
def test_the_kernel_is_the_reference_without_races(kernel):
  args = _inputs()
  got, found = races.run(KERNELS[kernel], *args)
  assert not found
  assert got.dtype == jnp.float32 and calc_diff(got, _reference(*args)) <= 1e-6
  assert (np.asarray(got[2]) == 0).all()  # the empty row


@kernels
def test_results_in_bfloat16(kernel):
  args = _inputs(dtype=jnp.bfloat16)
  got = jax.jit(KERNELS[kernel])(*args)
  assert got.dtype == jnp.bfloat16 and max_relative(got, _reference(*args)) <= 4e-3


@pytest.mark.parametrize("form", [pytest.param(_mgpu, marks=needs_mgpu), _tpu])
def test_many_heads_and_a_wide_latent(form, monkeypatch):
  """Two tiles of heads, the last not full, and cuts of 128 columns as in the models."""
  monkeypatch.setitem(OPTIONS, "latent", 256)
  args = _inputs(heads=72, latent=256)
  got, found = races.run(form, *args)
  assert not found and calc_diff(got, _reference(*args)) <= 1e-6


def test_xla_agrees_where_unused_slots_are_finite():
  q_BHX, kv_BSX, valid_BS = _inputs()
  got = xla.decode(q_BHX, jnp.nan_to_num(kv_BSX), valid_BS, **OPTIONS)
  assert calc_diff(got, _reference(q_BHX, kv_BSX, valid_BS)) <= 1e-6
  assert (np.asarray(got[2]) == 0).all()


@kernels
def test_one_valid_slot_gives_its_latent_exactly(kernel):
  q_BHX, kv_BSX, _ = _inputs()
  kv_BSX = jnp.nan_to_num(kv_BSX, nan=3)
  slots_B = jnp.array([0, 130, SLOTS - 1])
  valid_BS = jnp.arange(SLOTS) == slots_B[:, None]
  kv_BSX = jnp.where(valid_BS[..., None], kv_BSX, jnp.nan)
  got = jax.jit(KERNELS[kernel])(q_BHX, kv_BSX, valid_BS)
  want_BC = kv_BSX[jnp.arange(3), slots_B, :LATENT].astype(jnp.float32)
  np.testing.assert_array_equal(got, np.broadcast_to(want_BC[:, None], got.shape))


@kernels
def test_heads_are_independent_bit_for_bit(kernel):
  """What the odd heads ask changes nothing of the even ones.

  Heads stay in their places: a product that the interpreter leaves to the CPU may round a row
  otherwise in another place.
  """
  q_BHX, kv_BSX, valid_BS = _inputs()
  odd_H = np.arange(16) % 2 == 1
  run = jax.jit(KERNELS[kernel])
  got = np.asarray(run(q_BHX, kv_BSX, valid_BS))
  others = np.asarray(run(jnp.where(odd_H[:, None], -q_BHX, q_BHX), kv_BSX, valid_BS))
  np.testing.assert_array_equal(others[:, ~odd_H], got[:, ~odd_H])
  seen_B = np.asarray(valid_BS).any(axis=1)
  assert (others[seen_B][:, odd_H] != got[seen_B][:, odd_H]).any(axis=-1).all()
  np.testing.assert_array_equal(run(q_BHX, kv_BSX, valid_BS), got)  # and repeatable


def test_the_kernel_is_what_runs():
  args = _inputs()
  form = functools.partial(api.mla_decode, **OPTIONS)
  text = {
    name: str(jax.make_jaxpr(functools.partial(form, implementation=name))(*args))
    for name in ("ref", "xla", "tpu")
  }
  assert text["tpu"].count("pallas_call[") == 1 and "name=mla_decode" in text["tpu"]
  assert "pallas_call" not in text["ref"] + text["xla"]
  np.testing.assert_array_equal(form(*args, implementation="ref"), _reference(*args))


@needs_mgpu
def test_what_the_hopper_kernel_does_not_take_is_said():
  q_BHX, kv_BSX, valid_BS = _inputs()
  form = functools.partial(api.mla_decode, **OPTIONS, implementation="mgpu")
  with pytest.raises(ValueError, match="float32, not bfloat16"):
    form(q_BHX, kv_BSX.astype(jnp.float32), valid_BS)
  with pytest.raises(ValueError, match="30 slots"):
    form(q_BHX, kv_BSX[:, :30], valid_BS[:, :30])


@needs_mgpu
@pytest.mark.parametrize("latent", [64, 192, 384])
def test_the_hopper_kernel_takes_the_latents_it_was_tried_with(latent):
  q_BHX, kv_BSX, valid_BS = _inputs(latent=latent)
  with pytest.raises(dispatch.Unsupported, match=f"the latent is {latent} wide"):
    mgpu.decode(q_BHX, kv_BSX, valid_BS, latent=latent, scale=1.0)


@pytest.mark.skipif(compat.HAS_MGPU, reason="this jax has what Hopper kernels need")
def test_an_old_jax_is_refused():
  with pytest.raises(dispatch.Unsupported, match="jax 0.11.2"):
    mgpu.decode(*_inputs(), **OPTIONS)


def _late(s, kv_g, valid_g, first, end):
  """The loading warpgroup, waiting for a free stage only after it was overwritten."""

  @jax.experimental.pallas.loop(0, end - first + mgpu.STAGES)
  def _(i):
    block, stage = first + i, jax.lax.rem(i, mgpu.STAGES)

    @jax.experimental.pallas.when(block < end)
    def _():
      start = jnp.minimum(block * mgpu.BLOCK, kv_g.shape[0] - mgpu.BLOCK)
      slots = jax.experimental.pallas.ds(start, mgpu.BLOCK)
      plgpu.copy_gmem_to_smem(kv_g.at[slots], s.kv_s.at[stage], s.kv_ready.at[stage])
      plgpu.copy_gmem_to_smem(valid_g.at[block], s.valid_s.at[stage], s.kv_ready.at[stage])

    wait = functools.partial(plgpu.barrier_wait, s.kv_free.at[stage])
    jax.experimental.pallas.when(i >= mgpu.STAGES)(wait)


def _one_block_short(valid_BNS, parts):
  first_BP, end_BP, whole_BN = bounds(valid_BNS, parts)
  return first_BP, jnp.maximum(end_BP - 1, first_BP), whole_BN


bounds = tpu.block_bounds
MUTATIONS = {
  "unused slots are not cleaned": ("_clean", lambda s, stage: None),
  "earlier sums do not fade": ("_scaled", lambda outs, x_H: outs),
  "parts count alike": ("_combine", lambda out_BPHC, log_BPH: out_BPHC.mean(axis=1)),
  "the last block is left out": ("block_bounds", _one_block_short),
  "a stage is filled before it is free": ("_load", _late),
}


def _wrong(form, args):
  """Whether a form's result or its memory accesses are noticed as wrong."""
  try:
    got, found = races.run(lambda *x: form(*x), *args)  # another function: traced anew
  except jax.errors.JaxRuntimeError as error:
    # A loader that is early may also pass a phase by, which ends as its threads happen to run.
    if any(words in str(error) for words in ("waiting at barrier", "threads observed phase")):
      return True
    raise
  return bool(found) or not calc_diff(got, _reference(*args)) <= 1e-6  # NaN is wrong too


@needs_mgpu
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_hopper_kernel_is_noticed(monkeypatch, mutation):
  args = _inputs()
  monkeypatch.setattr(mgpu, *MUTATIONS[mutation])
  assert _wrong(KERNELS["mgpu in parts"], args)


@needs_mgpu
def test_a_forgotten_fence_is_noticed(monkeypatch):
  args = _inputs()
  monkeypatch.setattr(mgpu.plgpu, "commit_smem", lambda: None)
  assert _wrong(KERNELS["mgpu whole"], args)


TPU_MUTATIONS = {
  "unused slots are not cleaned": ("_clean", lambda kv_XS, valid_1S: kv_XS),
  "the last block is left out": ("block_bounds", _one_block_short),
  "unused slots are weighed": (
    "_weigh",
    lambda x, valid, *refs: weigh(x, jnp.ones_like(valid), *refs),
  ),
  "sums begin with what was there": ("_begin", lambda *refs: None),
}
weigh = tpu._weigh


@pytest.mark.parametrize("mutation", TPU_MUTATIONS)
def test_a_broken_tpu_kernel_is_noticed(monkeypatch, mutation):
  args = _inputs()
  monkeypatch.setattr(tpu, *TPU_MUTATIONS[mutation])
  assert _wrong(_tpu, args)
