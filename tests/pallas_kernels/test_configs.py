"""Tuned tiles: which a kernel gets, and files that are not as they must be."""

import json

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import configs
from pallas_kernels.configs import Asked, questions
from pallas_kernels.gemm import mgpu, tpu
from pallas_kernels.grouped import mgpu as grouped_mgpu
from pallas_kernels.grouped import tpu as grouped_tpu
from pallas_kernels.mla import mgpu as mla_mgpu
from pallas_kernels.testing import aot

DEFAULT = tpu.Tiles()
TUNED = tpu.Tiles(rows=128, columns=256, depth=512)
SHAPE = "M<=4096 N=512 K=1024"


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty folder in place of the one that is shipped."""
  monkeypatch.setattr(configs, "FOLDER", tmp_path)
  return tmp_path


def _ask(M=4096, chip="v5e", default=DEFAULT, by_blocks=True):
  with aot.pretended(chip):
    return questions.product(default, M, 512, 1024, by_blocks=by_blocks)


def _file(folder, **changes):
  file = {"device": "v5e", "jax": "0.11.2", "tiles": {"gemm.matmul": {SHAPE: {"rows": 128}}}}
  (folder / "v5e.json").write_text(json.dumps(file | changes))


def test_without_a_file_the_default_stands(folder):
  assert _ask() == DEFAULT


def test_what_was_written_is_read_for_its_device_and_class_only(folder):
  path = configs.write("v5e", {Asked("gemm.matmul", SHAPE, DEFAULT): TUNED})
  assert path == folder / "v5e.json"
  assert _ask() == _ask(M=2049) == TUNED
  assert _ask(M=2048) == _ask(M=4097) == DEFAULT
  assert _ask(chip="v6e") == _ask(by_blocks=False) == DEFAULT


def test_writing_keeps_other_entries_and_replaces_its_own(folder):
  question = Asked("gemm.matmul", SHAPE, DEFAULT)
  other = Asked("gemm.weight_gradient", "K<=4096 M=512 N=1024", DEFAULT)
  configs.write("v5e", {question: tpu.Tiles(rows=256), other: TUNED})
  configs.write("v5e", {question: TUNED})
  assert _ask() == TUNED
  assert set(configs.read(folder / "v5e.json")) == {"gemm.matmul", "gemm.weight_gradient"}


def test_fields_that_are_left_out_are_the_questions_default(folder):
  _file(folder)
  assert _ask(default=tpu.Tiles(depth=256)) == tpu.Tiles(rows=128, depth=256)


def test_none_is_not_written(folder):
  question = Asked("mla.decode", "B<=1 S<=4096 H=128 X=576", mla_mgpu.Tiles())
  configs.write("h100", {question: mla_mgpu.Tiles()})
  assert configs.read(folder / "h100.json") == {"mla.decode": {question.shape: {}}}
  with aot.pretended("h100"):
    assert questions.decode(mla_mgpu.Tiles(), 1, 128, 4096, 576) == mla_mgpu.Tiles()


@pytest.mark.parametrize(
  "changes, message",
  (
    ({"date": "today"}, "needs"),
    ({"device": "h200"}, "device is 'h200', not 'v5e'"),
    ({"jax": 11}, "jax is 11"),
    ({"tiles": []}, "tiles is not an object"),
    ({"tiles": {"gemm.matmull": {}}}, "'gemm.matmull' is none of gemm.matmul"),
    ({"tiles": {"gemm.matmul": {"M=": {}}}}, "'M=' is not the class of a shape"),
    ({"tiles": {"gemm.matmul": {SHAPE: 4}}}, "is not an object"),
    ({"tiles": {"gemm.matmul": {SHAPE: {"row": 128}}}}, "'row' is no field; they are rows, col"),
    ({"tiles": {"gemm.matmul": {SHAPE: {"rows": "128"}}}}, "rows is '128'"),
    ({"tiles": {"gemm.matmul": {SHAPE: {"rows": 100}}}}, "rows is 100, not a positive multiple"),
    ({"tiles": {"gemm.matmul": {SHAPE: {"rows": -128}}}}, "rows is -128"),
    ({"tiles": {"gemm.matmul": {SHAPE: {"rows": True}}}}, "rows is True"),
  ),
)
def test_a_bad_file_is_refused_with_its_name_and_what_is_wrong(folder, changes, message):
  _file(folder, **changes)
  with pytest.raises(ValueError, match=message) as caught:
    _ask()
  assert str(folder) in str(caught.value)


def test_what_is_not_json_is_refused_with_its_name(folder):
  (folder / "v5e.json").write_text("{")
  with pytest.raises(ValueError, match="v5e.json is not JSON"):
    _ask()


@pytest.mark.parametrize(
  "make",
  (
    lambda: mgpu.Tiles(rows=32),
    lambda: mgpu.Tiles(snake_axis=2),
    lambda: grouped_mgpu.Tiles(stages=0),
    lambda: grouped_tpu.Tiles(n=64),
    lambda: mla_mgpu.Tiles(parts=0),
  ),
)
def test_tiles_that_no_kernel_could_have_are_refused(make):
  with pytest.raises(ValueError, match="is "):
    make()


def test_devices_have_short_names():
  assert {name: configs.device_name(chip.kind) for name, chip in aot.CHIPS.items()} == {
    name: name for name in aot.CHIPS
  }
  assert configs.device_name("NVIDIA H200") == "h200"
  assert configs.device_name("NVIDIA H100 PCIe") == "nvidia-h100-pcie"


def test_a_kernel_without_tiles_takes_the_devices_and_one_with_tiles_does_not(folder):
  """The grid tells: two steps along N with the file's columns, one with the default's."""
  x, w = (jax.ShapeDtypeStruct(shape, jnp.float8_e4m3fn) for shape in ((128, 1024), (512, 1024)))
  x_scale, w_scale = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 128), (4, 8)))

  def grid(**options):
    with aot.pretended("v5e"):
      traced = jax.make_jaxpr(lambda *a: tpu.matmul(*a, **options))(x, x_scale, w, w_scale)
    (call,) = [e for e in traced.eqns if e.primitive.name == "pallas_call"]
    return call.params["grid_mapping"].grid

  assert grid() == (1, 1, 1)
  _file(folder, tiles={"gemm.matmul": {"M<=128 N=512 K=1024": {"columns": 256}}})
  configs.read.cache_clear()
  configs._tiles_of.cache_clear()
  assert grid() == (1, 2, 1)
  assert grid(tiles=DEFAULT) == (1, 1, 1)


def test_questions_are_recorded_and_answers_can_be_tried(folder):
  with configs.asked() as questions_asked:
    _ask()
  assert questions_asked == [Asked("gemm.matmul", SHAPE, DEFAULT)]
  with configs.trying(questions_asked[0], TUNED):
    assert _ask() == TUNED and _ask(M=128) == DEFAULT
  assert _ask() == DEFAULT
