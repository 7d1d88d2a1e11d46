"""The search for tiles, on operations and times of our own."""

import dataclasses

import jax
import pytest

from pallas_kernels import configs
from pallas_kernels.bench import tune
from pallas_kernels.bench.cases import Case
from pallas_kernels.bench.work import Work
from pallas_kernels.configs import Asked
from pallas_kernels.dispatch import Unsupported


@dataclasses.dataclass(frozen=True)
class Tiles:
  size: int = 4


QUESTION = Asked("gemm.matmul", "M<=64", Tiles())


@pytest.fixture(autouse=True)
def sizes(monkeypatch, tmp_path):
  """Sizes 4 (the default), 8 (wrong), 16 (right), 32 (not supported), 64 (does not compile)."""
  fields = tuple({"size": size} for size in (8, 16, 32, 64))
  monkeypatch.setitem(tune.CANDIDATES, Tiles, fields)
  monkeypatch.setattr(configs, "FOLDER", tmp_path)
  return tmp_path


def _call(x, *, implementation):
  if implementation != "tpu":
    return 2 * x
  size = configs.tiles("gemm.matmul", Tiles(), up_to={"M": x.size}, exact={}).size
  if size == 32:
    raise Unsupported("32 is too large.")
  if size == 64:
    raise RuntimeError("out of shared memory")
  return (3 if size == 8 else 2) * x


def _make(key):
  return {"own": (jax.random.normal(key, (64,)),)}


CASE = Case("double", "64", _call, _make, Work(1, 1))


def _timer(seconds):
  """Times by size; the wrong size would be the fastest."""

  def timer(programs):
    timer.asked = list(programs)
    return {name: seconds[name] for name in programs}

  return timer


def test_the_fastest_of_those_that_are_right_is_kept():
  timer = _timer({"Tiles(size=4)": 3.0, "Tiles(size=8)": 0.1, "Tiles(size=16)": 2.0})
  found = tune.search(CASE, "tpu", QUESTION, timer, caches=1)
  assert timer.asked == ["Tiles(size=4)", "Tiles(size=16)"]
  assert found == tune.Found(QUESTION, Tiles(16), 2.0, 3.0, tried=5, skipped=3)


def test_the_default_stands_where_nothing_is_faster():
  timer = _timer({"Tiles(size=4)": 1.0, "Tiles(size=16)": 2.0})
  assert tune.search(CASE, "tpu", QUESTION, timer, caches=1).best == Tiles()


def test_each_question_is_tuned_once_and_said():
  said = []
  timer = _timer({"Tiles(size=4)": 3.0, "Tiles(size=16)": 2.0})
  found = list(tune.tune([CASE, CASE], "tpu", timer, caches=1, say=said.append))
  assert found == [(QUESTION, Tiles(16))]
  assert said == [
    "double, 64: Tiles(size=16) 2000000.0 µs, default 3000000.0 µs, 3 of 5 candidates skipped"
  ]


def test_where_none_is_right_nothing_is_kept():
  said = []
  wrong = dataclasses.replace(CASE, call=lambda x, *, implementation: _wrong(x, implementation))
  assert not list(tune.tune([wrong], "tpu", _timer({}), caches=1, say=said.append))
  assert said == ["double, 64: none is right, 5 of 5 candidates skipped"]


def _wrong(x, implementation):
  y = _call(x, implementation=implementation)
  return y + 1 if implementation == "tpu" else y


def test_kernels_that_do_not_ask_are_passed_over():
  silent = dataclasses.replace(CASE, call=lambda x, *, implementation: 2 * x)
  other_kind = dataclasses.replace(CASE, kinds=("mgpu",))
  assert not list(tune.tune([silent, other_kind], "tpu", _timer({}), caches=1))


def test_a_case_that_fails_as_a_whole_is_said_and_the_next_is_tuned():
  said = []

  def timer(programs):
    if not said:
      raise MemoryError("out of memory")
    return _timer({"Tiles(size=4)": 3.0, "Tiles(size=16)": 2.0})(programs)

  found = list(tune.tune([CASE, CASE], "tpu", timer, caches=1, say=said.append))
  assert said[0] == "double, 64: failed: MemoryError: out of memory"
  assert found == [(QUESTION, Tiles(16))]


def test_what_was_found_is_what_kernels_then_get(sizes, monkeypatch):
  timer = _timer({"Tiles(size=4)": 3.0, "Tiles(size=16)": 2.0})
  best = dict(tune.tune([CASE], "tpu", timer, caches=1, say=lambda line: None))
  configs.write(configs.device_name(jax.devices()[0].device_kind), best)
  assert configs.tiles("gemm.matmul", Tiles(), up_to={"M": 50}, exact={}) == Tiles(16)


def test_tiles_of_hopper_fit_every_number_of_tokens_of_a_class():
  for tiles in tune.candidates(tune.gemm_mgpu.Tiles()):
    assert 128 % tiles.height == 0 and 128 % tiles.columns == 0
