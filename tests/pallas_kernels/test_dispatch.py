"""Which implementation runs, and what is said of it."""

import logging

import jax
import pytest

from pallas_kernels import compat, dispatch
from pallas_kernels.testing import aot


@pytest.fixture
def said(caplog):
  """The log's lines; each test may say what another has said before."""
  dispatch._say.cache_clear()
  caplog.set_level(logging.INFO, logger="pallas_kernels")
  yield lambda: [record.getMessage() for record in caplog.records]
  dispatch._say.cache_clear()


def _form(name):
  return lambda x, factor=1: (name, x * factor)


FORMS = {name: _form(name) for name in ("ref", "xla", "tpu", "mgpu")}


def test_a_named_form_runs_and_is_not_logged(said):
  assert dispatch.call("op", "ref", FORMS, 2, factor=3) == ("ref", 6)
  assert said() == []


@pytest.mark.parametrize("kernel", ("tpu", "mgpu"))
def test_none_runs_the_devices_kernel_and_says_so_once(said, monkeypatch, kernel):
  monkeypatch.setattr(dispatch, "device_kernel", lambda: kernel)
  for _ in range(2):
    assert dispatch.call("op", None, FORMS, 1) == (kernel, 1)
  assert said() == [f"op runs as {kernel}"]


def test_none_runs_xla_on_a_cpu_and_ref_where_there_is_no_better_form(said):
  assert dispatch.device_kernel() == "xla"
  assert dispatch.call("op", None, FORMS, 1) == ("xla", 1)
  assert dispatch.call("other", None, {"ref": FORMS["ref"]}, 1) == ("ref", 1)
  assert said() == ["op runs as xla", "other runs as ref"]


def test_a_kernel_that_does_not_take_the_arguments_gives_way_with_its_reason(said, monkeypatch):
  def refuses(x):
    raise dispatch.Unsupported("its size is odd")

  monkeypatch.setattr(dispatch, "device_kernel", lambda: "tpu")
  forms = FORMS | {"tpu": refuses}
  assert dispatch.call("op", None, forms, 1) == ("xla", 1)
  assert len(said()) == 1 and "op runs as xla" in said()[0] and "its size is odd" in said()[0]
  with pytest.raises(dispatch.Unsupported, match="its size is odd"):
    dispatch.call("op", "tpu", forms, 1)


def test_a_form_that_is_not_there_is_refused_with_those_that_are():
  with pytest.raises(ValueError, match="op has no implementation 'cuda'; it has ref, tpu"):
    dispatch.call("op", "cuda", {"ref": FORMS["ref"], "tpu": FORMS["tpu"]}, 1)


@pytest.mark.parametrize(
  "platform, capability, kernel",
  (("tpu", None, "tpu"), ("gpu", "9.0", "mgpu"), ("gpu", "8.0", "xla"), ("cpu", None, "xla")),
)
def test_the_device_decides(monkeypatch, platform, capability, kernel):
  class Device:
    pass

  device = Device()
  device.platform = platform
  if capability:
    device.compute_capability = capability
  monkeypatch.setattr(jax, "devices", lambda: [device])
  assert dispatch.device_kernel() == kernel


def test_traces_see_the_pretended_chip():
  with aot.pretended("h100", cores=5):
    assert compat.multiprocessors() == 5
  with aot.pretended("tpu7x"):
    assert compat.device_kind() == "TPU7x"
  assert compat.device_kind() == jax.devices()[0].device_kind
