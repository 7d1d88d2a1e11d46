"""Absorbed attention for Hopper: flash decoding over the latent cache in one Mosaic GPU kernel.

A block of threads takes 64 heads of one row and a part of its slots, with four warpgroups. One
loads 64 slots at a time, latent and rotary key together, two such tiles ahead. One makes scores and
weights and hands the weights over in shared memory. Two multiply them with the latents, each for
half of the columns, since 64 x 512 float32 sums are too many for the registers of one; meanwhile
the next tile is weighed. So the cache is read once per 64 heads, for keys and values alike.

Where rows are few, their slots are split among blocks, and the parts are combined by XLA. A row's
slots are cut to those between its first and its last valid one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.dispatch import require
from pallas_kernels.hopper import product, require_mgpu, swizzled
from pallas_kernels.mla.slots import MASKED, block_bounds, blocked

HEADS = 64  # of a tile: the rows of a warpgroup's matmul
BLOCK = 64  # slots of a tile
STAGES = 2  # tiles of the cache in shared memory
PROCESSORS = 132  # an H100's; each holds one block of threads
# Registers of a thread, by what its warpgroup does: 512 for the four together.
_Registers = tuple[int, Literal["increase", "decrease"]]
WEIGHING: _Registers = (120, "decrease")
MIXING: _Registers = (176, "increase")
LOADING: _Registers = (40, "decrease")
COLUMNS = 64  # of a cache tile that are cleaned at a time: 128 bytes


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How the work is cut: in how many parts a row's slots are; None fills the processors."""

  parts: int | None = None

  def __post_init__(self) -> None:
    if self.parts is not None:
      configs.check_fields(self, parts=1)


def decode(
  q_BHX: jax.Array,
  kv_BSX: jax.Array,
  valid_BS: jax.Array,
  *,
  latent: int,
  scale: float,
  parts: int | None = None,
  interpret: Any = None,
) -> jax.Array:
  """Attends over the valid slots; see `api.mla_decode`.

  `parts` is in how many parts a row's slots are split; None takes the device's choice, which fills
  the processors where nothing else was measured to be faster.
  """
  B, H, X = q_BHX.shape
  S, dtype = kv_BSX.shape[1], q_BHX.dtype
  require_mgpu()
  require(kv_BSX.dtype == jnp.bfloat16, f"the cache is {kv_BSX.dtype}, not bfloat16")
  require(latent in (128, 256, 512), f"the latent is {latent} wide")
  require((X - latent) % 64 == 0 and X <= 576, f"the cache's entries are {X} wide")
  require(S >= BLOCK, f"there are {S} slots")
  tiles = pl.cdiv(H, HEADS)
  if parts is None:
    parts = questions.decode(Tiles(), B, H, S, X).parts
  parts = parts or _parts(B * tiles, S)
  q_BHX = jnp.pad(q_BHX.astype(jnp.bfloat16), ((0, 0), (0, tiles * HEADS - H), (0, 0)))
  valid_BNS = blocked(valid_BS, BLOCK)
  out = jax.ShapeDtypeStruct(
    (B, parts, tiles * HEADS, latent), dtype if parts == 1 else jnp.float32
  )
  out_BPHC, log_BPH = _call(q_BHX, kv_BSX, valid_BNS, out, scale, interpret)
  return _combine(out_BPHC, log_BPH)[:, :H].astype(dtype)


def _parts(blocks: int, slots: int) -> int:
  """Parts of a row's slots, so that no processor idles; none shorter than four tiles."""
  return max(1, min(PROCESSORS // blocks, slots // (4 * BLOCK)))


def _combine(out_BPHC: jax.Array, log_BPH: jax.Array) -> jax.Array:
  """The mean of the parts, weighted by their sums, of which `log_BPH` is the binary logarithm."""
  if out_BPHC.shape[1] == 1:
    return out_BPHC[:, 0]
  weight_BPH = jnp.exp2(log_BPH - log_BPH.max(axis=1, keepdims=True))
  weight_BPH = weight_BPH / weight_BPH.sum(axis=1, keepdims=True)
  return (out_BPHC * weight_BPH[..., None]).sum(axis=1)


def _call(q_BHX, kv_BSX, valid_BNS, out: jax.ShapeDtypeStruct, scale: float, interpret: Any):
  """The kernel: outputs [B, P, H, C] of the parts, and their float32 logarithms [B, P, H]."""
  B, parts, H, _ = out.shape
  X = q_BHX.shape[2]
  tiled = swizzled(jnp.bfloat16)
  return plgpu.kernel(
    functools.partial(_kernel, scale=scale * math.log2(math.e), interpreted=interpret is not None),
    out_type=[out, jax.ShapeDtypeStruct((B, parts, H), jnp.float32)],
    scratch_types=dict(
      q_s=plgpu.SMEM((HEADS, X), jnp.bfloat16, transforms=tiled),
      kv_s=plgpu.SMEM((STAGES, BLOCK, X), jnp.bfloat16, transforms=tiled),
      weights_s=plgpu.SMEM((HEADS, BLOCK), jnp.bfloat16, transforms=tiled),
      valid_s=plgpu.SMEM((STAGES, BLOCK), jnp.int32),
      fade_s=plgpu.SMEM((HEADS,), jnp.float32),
      q_ready=plgpu.Barrier(),
      kv_ready=plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
      kv_free=plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
      weights_ready=plgpu.Barrier(),
      weights_free=plgpu.Barrier(num_arrivals=2),
    ),
    grid=(H // HEADS, parts, B),
    grid_names=("tile", "part", "row"),
    num_threads=4,
    thread_name="warpgroup",
    compiler_params=plgpu.CompilerParams(
      lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
      approx_math=True,
      reduction_scratch_bytes=0,  # rows are reduced within a warp
    ),
    interpret=interpret,
  )(q_BHX, kv_BSX, valid_BNS, *block_bounds(valid_BNS, parts))


def _kernel(
  q_g,
  kv_g,
  valid_g,
  first_g,
  end_g,
  whole_g,
  out_g,
  log_g,
  *,
  scale: float,
  interpreted: bool,
  **shared,
):
  """One block of threads; `shared` are its buffers and barriers, by name."""
  s = _Shared(**shared)
  half = out_g.shape[3] // 2
  width = min(half, 128)  # of a matmul: ptxas refuses 256 columns where threads are 512

  def place():
    # Found by each warpgroup: what lives across their parting is spilled.
    row, part, tile = (lax.axis_index(name) for name in ("row", "part", "tile"))
    return row, part, pl.ds(tile * HEADS, HEADS), (first_g[row, part], end_g[row, part])

  def weigh() -> None:
    plgpu.set_max_registers(WEIGHING[0], action=WEIGHING[1])
    row, part, heads, (first, end) = place()
    log_g[row, part, heads] = _weigh_all(s, whole_g.at[row], first, end, scale)

  def mix(start: int) -> None:
    plgpu.set_max_registers(MIXING[0], action=MIXING[1])
    row, part, heads, (first, end) = place()
    cuts = [slice(at, at + width) for at in range(start, start + half, width)]
    for cut, out in zip(cuts, _mix(s, first, end, cuts, interpreted)):
      out_g[row, part, heads, cut] = out.astype(out_g.dtype)

  def load() -> None:
    plgpu.set_max_registers(LOADING[0], action=LOADING[1])
    row, _, heads, bounds = place()
    plgpu.copy_gmem_to_smem(q_g.at[row, heads], s.q_s, s.q_ready)
    _load(s, kv_g.at[row], valid_g.at[row], *bounds)

  mixers = [functools.partial(mix, start) for start in (0, half)]
  roles: list[Callable[[], None]] = [weigh, *mixers, load]
  for index, role in enumerate(roles):
    pl.when(lax.axis_index("warpgroup") == index)(role)


@dataclasses.dataclass(frozen=True)
class _Shared:
  """Shared memory and barriers of a block of threads."""

  q_s: Any  # [HEADS, X]
  kv_s: Any  # [STAGES, BLOCK, X]
  weights_s: Any  # [HEADS, BLOCK], bfloat16
  valid_s: Any  # [STAGES, BLOCK]
  fade_s: Any  # [HEADS]: what earlier sums are multiplied by; at the end one over the total
  q_ready: Any
  kv_ready: Any  # the cache's tile and its valid slots have come
  kv_free: Any  # both mixing warpgroups are done with them, and the weighing one before
  weights_ready: Any  # weights and fade are the mixing warpgroups' to read
  weights_free: Any  # and the weighing one's to write


def _load(s: _Shared, kv_g, valid_g, first, end) -> None:
  """The loading warpgroup: the tiles `first` to `end` of a row, as stages become free.

  It stays until the last are free: no barrier may be left before its last phase is seen.
  """
  last_start = kv_g.shape[0] - BLOCK

  @pl.loop(0, end - first + STAGES)
  def _(i):
    block, stage = first + i, lax.rem(i, STAGES)
    pl.when(i >= STAGES)(lambda: plgpu.barrier_wait(s.kv_free.at[stage]))

    @pl.when(block < end)
    def _():
      slots = pl.ds(jnp.minimum(block * BLOCK, last_start), BLOCK)
      plgpu.copy_gmem_to_smem(kv_g.at[slots], s.kv_s.at[stage], s.kv_ready.at[stage])
      plgpu.copy_gmem_to_smem(valid_g.at[block], s.valid_s.at[stage], s.kv_ready.at[stage])


def _weigh_all(s: _Shared, whole_g, first, end, scale: float) -> jax.Array:
  """The weighing warpgroup: weights, tile by tile; gives the binary logarithm of their sums."""
  plgpu.barrier_wait(s.q_ready)

  def step(i: jax.Array, carry):
    total, top = carry
    stage = lax.rem(i, STAGES)
    plgpu.barrier_wait(s.kv_ready.at[stage])
    weights, total, top, fade = _weigh(s, stage, total, top, scale)
    pl.when(i > 0)(lambda: plgpu.barrier_wait(s.weights_free))
    s.weights_s[...] = weights
    pl.when(whole_g[first + i] == 0)(lambda: _clean(s, stage))
    _hand_over(s, fade)
    return total, top

  zeros_H = plgpu.layout_cast(jnp.zeros(HEADS, jnp.float32), plgpu.Layout.WGMMA.reduce(1))
  total, top = lax.fori_loop(0, end - first, step, (zeros_H, zeros_H + MASKED))
  pl.when(end > first)(lambda: plgpu.barrier_wait(s.weights_free))
  _hand_over(s, jnp.where(total > 0, 1.0 / total, 0.0))
  return top + jnp.where(total > 0, jnp.log2(total), 0.0)


def _mix(s: _Shared, first, end, cuts: list[slice], interpreted: bool) -> list[jax.Array]:
  """A mixing warpgroup: some cuts of the output's columns."""

  def step(i: jax.Array, outs: list[jax.Array]) -> list[jax.Array]:
    stage = lax.rem(i, STAGES)
    plgpu.barrier_wait(s.kv_ready.at[stage])
    plgpu.barrier_wait(s.weights_ready)
    outs = _scaled(outs, s.fade_s[...])
    latents = [s.kv_s.at[stage, :, cut] for cut in cuts]
    outs = _add_products(outs, s.weights_s, latents, interpreted)
    plgpu.barrier_arrive(s.weights_free)
    plgpu.barrier_arrive(s.kv_free.at[stage])
    return outs

  shapes = [(HEADS, cut.stop - cut.start) for cut in cuts]
  zeros = [plgpu.layout_cast(jnp.zeros(x, jnp.float32), plgpu.Layout.WGMMA) for x in shapes]
  outs = lax.fori_loop(0, end - first, step, zeros)
  plgpu.barrier_wait(s.weights_ready)
  return _scaled(outs, s.fade_s[...])


def _hand_over(s: _Shared, fade: jax.Array) -> None:
  """Gives the mixing warpgroups a factor per head, and what was written just before."""
  s.fade_s[...] = fade
  plgpu.commit_smem()
  plgpu.barrier_arrive(s.weights_ready)


def _weigh(s: _Shared, stage: jax.Array, total: jax.Array, top: jax.Array, scale: float):
  """Weights of a tile's slots, bfloat16 [HEADS, BLOCK], the new totals and maxima, and the fade."""
  scores = product(s.q_s, s.kv_s.at[stage].T)
  valid = lax.broadcast_in_dim(s.valid_s[stage], (HEADS, BLOCK), (1,)) != 0
  scores = jnp.where(valid, scores * scale, MASKED)
  new_top = jnp.maximum(top, scores.max(axis=1))
  weights = jnp.where(valid, jnp.exp2(scores - _across(new_top, scores)), 0.0)
  fade = jnp.exp2(top - new_top)
  return weights.astype(jnp.bfloat16), total * fade + weights.sum(axis=1), new_top, fade


def _add_products(sums: list[jax.Array], a, bs, interpreted: bool) -> list[jax.Array]:
  """The sums plus the products of `a` with each of `bs`, in the sums' own registers.

  There are none for sums and products, but the interpreter has only products that start from zero.
  """
  if interpreted:
    return [x + product(a, b) for x, b in zip(sums, bs)]

  def multiply(refs):
    for ref, b in zip(refs, bs):
      plgpu.wgmma(ref, a, b)

  return list(pl.run_state(multiply)([plgpu.ACC.init(x) for x in sums]))


def _clean(s: _Shared, stage: jax.Array) -> None:
  """Zeros in the slots that are not valid: a weight of zero does not make NaN harmless.

  Their scores are made by then, and the mixing warpgroups have not begun.
  """
  valid = lax.broadcast_in_dim(s.valid_s[stage], (BLOCK, COLUMNS), (0,)) != 0

  @pl.loop(0, s.kv_s.shape[2] // COLUMNS)
  def _(i):
    cut = (stage, slice(None), pl.ds(pl.multiple_of(i * COLUMNS, COLUMNS), COLUMNS))
    s.kv_s[cut] = jnp.where(valid, s.kv_s[cut], jnp.bfloat16(0))


def _across(x_H: jax.Array, like: jax.Array) -> jax.Array:
  """A number per head for each column of `like`."""
  return lax.broadcast_in_dim(x_H, like.shape, (0,))


def _scaled(outs: list[jax.Array], x_H: jax.Array) -> list[jax.Array]:
  """Sums times a number per head."""
  return [out * _across(x_H, out) for out in outs]
