"""Both kernels of every quantisation in their interpreters: the reference bit for bit, races, and
mutations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import compat, dispatch
from pallas_kernels.fp8 import api, mgpu, ref, tpu
from pallas_kernels.testing import aot, races

M, K = 384, 256
OPERATIONS = (
  "quantize_rows",
  "quantize_columns",
  "quantize_both",
  "quantize_blocks",
  "swiglu_quantize",
)
needs_mgpu = pytest.mark.skipif(
  not compat.HAS_MGPU, reason="Hopper kernels need jax 0.11.2 or newer"
)
KERNELS = (tpu, pytest.param(mgpu, marks=needs_mgpu))


def _ids(value):
  return value.__name__.rpartition(".")[2] if hasattr(value, "__name__") else None


def _inputs(operation, dtype=jnp.float32):
  """Tiles of unequal magnitudes, so that a wrong scale shows."""
  keys = jax.random.split(jax.random.key(0))
  spread = jnp.exp2(jnp.arange(M) % 7)[:, None] * jnp.exp2(-(jnp.arange(K) // 64))
  x, y = (jax.random.normal(key, (M, K)) * spread for key in keys)
  return [a.astype(dtype) for a in ((x, y) if operation.startswith("swiglu") else (x,))]


def _run(module, operation, *arrays, power_of_two=False):
  interpreter = compat.tpu_interpreter if module is tpu else compat.gpu_interpreter
  kernel = getattr(module, operation)
  interpret = interpreter(detect_races=True)
  return races.run(lambda *a: kernel(*a, power_of_two=power_of_two, interpret=interpret), *arrays)


def _float32(x):
  return np.asarray(x, np.float32)


def _same(result, reference):
  return all(
    np.array_equal(_float32(got), _float32(expected))
    for got, expected in zip(jax.tree.leaves(result), jax.tree.leaves(reference), strict=True)
  )


@pytest.fixture
def small_tiles(monkeypatch):
  """Three steps of the TPU kernels' grids along the rows, and two along the columns."""
  monkeypatch.setattr(tpu, "fitted", lambda size, most: 128)


@pytest.mark.parametrize("power_of_two", (False, True))
@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("module", KERNELS, ids=_ids)
def test_kernels_are_the_reference_bit_for_bit(module, operation, dtype, power_of_two):
  arrays = _inputs(operation, dtype)
  result, found = _run(module, operation, *arrays, power_of_two=power_of_two)
  plain = jax.jit(lambda *a: getattr(ref, operation)(*a, power_of_two=power_of_two))
  assert _same(result, plain(*arrays)) and found == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_tpu_kernels_fill_the_scales_over_steps(small_tiles, operation):
  arrays = _inputs(operation)
  result, found = _run(tpu, operation, *arrays)
  assert _same(result, jax.jit(getattr(ref, operation))(*arrays)) and found == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_shifted_scale_index_is_seen(small_tiles, monkeypatch, operation):
  monkeypatch.setattr(tpu, "_scale_row", lambda axis, tiles, tile: 0)
  arrays = _inputs(operation)
  assert not _same(_run(tpu, operation, *arrays)[0], getattr(ref, operation)(*arrays))


@needs_mgpu
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ("_await_loads", "publish"))
def test_missing_synchronisation_is_a_race(monkeypatch, name, operation):
  monkeypatch.setattr(mgpu, name, lambda *_: None)
  assert _run(mgpu, operation, *_inputs(operation))[1]


def _scaled(arrays, factor):
  """Inputs whose result is `factor` times that of `arrays`: an expert's gate is not linear."""
  *gate, x = arrays
  return *gate, x * factor


@pytest.mark.parametrize("exponent", (-80, -20, 80))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("module", (ref, *KERNELS), ids=_ids)
def test_magnitude_is_in_the_scales_alone(module, operation, exponent):
  """Gradients lie far below activations, and lose nothing by it."""
  arrays = _inputs(operation)
  scaled = _scaled(arrays, 2.0**exponent)
  plain = jax.jit(getattr(ref, operation))
  got = plain(*scaled) if module is ref else _run(module, operation, *scaled)[0]
  for ours, expected in zip(jax.tree.leaves(got), jax.tree.leaves(plain(*arrays)), strict=True):
    factor = np.float32(2.0) ** exponent if ours.dtype == jnp.float32 else 1  # of scales alone
    np.testing.assert_array_equal(_float32(ours), _float32(expected) * factor)


@pytest.mark.parametrize("amax", (0.0, 1e-38, 1e-30, 1e-20, 3e38))
@pytest.mark.parametrize("module", (ref, *KERNELS), ids=_ids)
def test_every_magnitude_has_a_finite_scale_and_values(module, amax):
  """Also one over the scale, and what is dequantised, are finite."""
  x = jnp.full((128, 128), amax, jnp.float32)
  result = ref.quantize_both(x) if module is ref else _run(module, "quantize_both", x)[0]
  for values, scale in result:
    back, scale = _float32(ref.dequantize_rows(values, scale)), _float32(scale)
    assert (scale > 0).all() and np.isfinite(1 / scale).all()
    np.testing.assert_allclose(back, amax, rtol=1e-6, atol=1e-35)  # the floor's steps


@pytest.mark.parametrize("module", KERNELS, ids=_ids)
def test_values_out_of_range_saturate_and_without_the_clip_they_are_nan(module, monkeypatch):
  monkeypatch.setattr(module, "scale_of", lambda amax, power_of_two: 0 * amax + 1e-3)
  (x,) = _inputs("quantize_rows")
  values = _run(module, "quantize_rows", x)[0][0].astype(jnp.float32)
  assert float(jnp.abs(values).max()) == 448
  monkeypatch.setattr(module, "cast", lambda x: x.astype(jnp.float8_e4m3fn))
  assert jnp.isnan(_run(module, "quantize_rows", x)[0][0].astype(jnp.float32)).any()


@pytest.mark.parametrize("module", KERNELS, ids=_ids)
def test_shapes_without_whole_tiles_are_refused(module):
  with pytest.raises(dispatch.Unsupported, match=r"\(64, 256\) is not made of tiles"):
    module.quantize_columns(jnp.zeros((64, 256)))


@pytest.mark.skipif(compat.HAS_MGPU, reason="this jax has what Hopper kernels need")
def test_an_old_jax_is_refused():
  with pytest.raises(dispatch.Unsupported, match="jax 0.11.2"):
    mgpu.quantize_rows(jnp.zeros((128, 128)))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("chip", (*aot.TPUS, pytest.param("h100", marks=needs_mgpu)))
def test_the_devices_kernel_runs(chip, operation, monkeypatch):
  kernel = "mgpu" if chip == "h100" else "tpu"
  monkeypatch.setattr(dispatch, "device_kernel", lambda: kernel)
  text = aot.lower(getattr(api, operation), _inputs(operation), chip)
  kernels = 2 if (kernel, operation) == ("tpu", "quantize_both") else 1
  assert text.count("@mosaic_gpu" if chip == "h100" else "@tpu_custom_call") == kernels
  assert "stablehlo.divide" not in text
