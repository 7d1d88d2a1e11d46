"""Checkpoints: whole, in order, on any mesh, and on a full disk."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.sharding import MeshConfig, make_mesh
from deepseek_jax.train.checkpoint import Checkpointer, load_weights
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import abstract_state, init_state
from deepseek_jax.types import Weights

TX = make_optimizer(OptimizerConfig(moment_dtype="bfloat16"))


def create(width=16, ema=False):
  keys = jax.random.split(jax.random.key(1), 2)
  params = {"moe": {"gate_EDF": jax.random.normal(keys[0], (8, 4, width))}}
  return init_state(Weights(params, jax.random.normal(keys[1], (2, 8))), TX, ema)


def assert_equal(found, wanted):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("ema", [False, True])
def test_round_trip_keeps_arrays_and_host_integers(tmp_path, ema):
  host = {"tokens": 14_800_000_000_000, "data": {"document": 3}, "usual_loss": 0.1 + 0.2}
  saver = Checkpointer(tmp_path)
  saver.save(7, create(ema=ema), host)
  saver.close()
  abstract = abstract_state(lambda: create(ema=ema))
  state, found = Checkpointer(tmp_path).restore(abstract)
  assert_equal(state, create(ema=ema))
  assert found == host
  assert_equal(load_weights(tmp_path), create().weights)


def test_weights_are_read_without_a_warning(tmp_path, caplog):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.close()
  caplog.clear()
  with caplog.at_level("WARNING", logger="absl"):
    load_weights(tmp_path)
  assert caplog.messages == []


def test_keeps_the_last_ones(tmp_path):
  saver = Checkpointer(tmp_path, keep=2)
  for step in (1, 2, 5):
    saver.save(step, create(), {})
  saver.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "5"]
  assert saver.path(5).is_dir()


def test_what_a_kill_left_half_written_is_ignored_and_removed(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.close()
  shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
  again = Checkpointer(tmp_path)
  assert again.latest_step() == 1
  assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_steps_that_donate_the_state_do_not_change_what_is_saved(tmp_path):
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = create(width=50_000)
  wanted = jax.tree.map(np.array, state.weights)
  saver = Checkpointer(tmp_path)
  saver.save(1, state, {})
  for _ in range(5):
    state = step(state)
  jax.block_until_ready(state)
  saver.close()
  assert_equal(load_weights(tmp_path), wanted)


def test_is_read_onto_another_mesh(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.close()
  mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
  abstract = abstract_state(create, mesh)
  state, _ = Checkpointer(tmp_path).restore(abstract)
  assert_equal(jax.device_get(state), jax.device_get(create()))
  experts = state.weights.params["moe"]["gate_EDF"]
  assert experts.sharding == abstract.weights.params["moe"]["gate_EDF"].sharding
  assert not experts.is_fully_replicated


def test_another_models_checkpoint_is_refused(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.close()
  with pytest.raises(ConfigError, match="does not hold the state"):
    Checkpointer(tmp_path).restore(abstract_state(lambda: create(width=8)))


def test_no_checkpoint_is_one_sentence(tmp_path):
  with pytest.raises(ConfigError, match="has no checkpoint"):
    Checkpointer(tmp_path).restore(abstract_state(create))
  with pytest.raises(ConfigError, match="has no checkpoint"):
    load_weights(tmp_path)
  with pytest.raises(ConfigError, match="does not exist"):
    load_weights(tmp_path / "nowhere")


def test_a_disk_too_small_is_seen_before_writing(tmp_path, monkeypatch):
  saver = Checkpointer(tmp_path)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
  with pytest.raises(ConfigError, match="the disk of .* is full"):
    saver.save(1, create(), {})
  assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.wait()
  state = create(width=200_000)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes in a file
  try:
    with pytest.raises(ConfigError, match="the disk of .* is full"):
      saver.save(2, state, {})
      saver.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert [p.name for p in tmp_path.iterdir()] == ["1"]
  assert_equal(load_weights(tmp_path), jax.device_get(create().weights))


def test_bfloat16_moments_stay_bfloat16(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(1, create(), {})
  saver.close()
  state, _ = Checkpointer(tmp_path).restore(abstract_state(create))
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert {x.dtype for x in moments} == {jnp.bfloat16.dtype}


def truncate(folder, named):
  for path in folder.rglob("*"):
    if path.is_file() and named in str(path.relative_to(folder)):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("named", ["weights/d/", "weights/manifest", "weights/_METADATA"])
def test_a_whole_checkpoint_is_used_when_the_newest_is_damaged(tmp_path, capfd, named):
  saver = Checkpointer(tmp_path)
  saver.save(3, create(), {"step": 3})
  saver.save(6, create(), {"step": 6})
  saver.close()
  truncate(tmp_path / "6", named)
  assert_equal(load_weights(tmp_path), create().weights)
  told = capfd.readouterr().err
  assert f"{tmp_path / '6'} is damaged" in told and f"{tmp_path / '3'} is whole" in told
  assert (tmp_path / "6").is_dir()  # whoever only reads leaves it

  again = Checkpointer(tmp_path)
  state, host = again.restore(abstract_state(create))
  assert_equal(state, create())
  assert host == {"step": 3}
  told = capfd.readouterr().err
  assert f"{tmp_path / '3'} is whole" in told and "Traceback" not in told
  again.save(6, create(), {"step": 6})  # the run comes to that step once more
  again.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6", "6.damaged"]
  assert Checkpointer(tmp_path).restore(abstract_state(create))[1] == {"step": 6}


def test_where_none_is_whole_one_sentence_says_what_to_do(tmp_path):
  saver = Checkpointer(tmp_path)
  saver.save(3, create(), {})
  saver.close()
  truncate(tmp_path / "3", "weights/")
  for read in (load_weights, lambda p: Checkpointer(p).restore(abstract_state(create))):
    with pytest.raises(ConfigError, match="put a copy back that is whole.*or delete") as error:
      read(tmp_path)
    assert "\n" not in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ["3"]
