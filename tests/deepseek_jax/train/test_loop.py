"""The loop with a model of one matrix: resuming, ending, diverging, never waiting."""

import dataclasses
import functools
import itertools
import os
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.train import loop
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.loop import Feed, Limit, LoopConfig, Position, Terminated, TrainingDiverged
from deepseek_jax.train.metrics import WALL_CLOCK, MetricsLog, read_metrics
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import abstract_state, apply_gradients, compile_step, init_state
from deepseek_jax.types import Weights

TX = make_optimizer(OptimizerConfig())


def create():
  weights = Weights({"gate_DF": jax.random.normal(jax.random.key(0), (4, 3))}, jnp.zeros((0, 0)))
  return init_state(weights, TX)


@functools.cache
def compiled_step():
  def step(state, batch_BD, knobs):
    def loss(params):
      return jnp.mean(jnp.square(batch_BD @ params["gate_DF"]))

    value, grads = jax.value_and_grad(loss)(state.weights.params)
    state, metrics = apply_gradients(state, grads, None, TX, knobs)
    return state, {**metrics, "loss": value}

  return compile_step(step, None)


def feed(position, state, hook=None):
  rng = np.random.default_rng(position.data or 0)
  batch = rng.normal(size=(5, 4)).astype(np.float32)
  if hook is not None:
    batch = hook(position.step + 1, batch)
  return Feed(batch, np.float32(0.01), tokens=10**13, data=(position.data or 0) + 1)


def run(directory, steps, hook=None, **fields):
  config = LoopConfig(**{"steps": steps, "checkpoint_every": 3, "progress_seconds": 0.0} | fields)
  checkpointer, log = Checkpointer(directory / "checkpoints"), MetricsLog(directory)
  try:
    state, position = loop.begin(abstract_state(create), create, checkpointer, log)
    return loop.train(
      state,
      position,
      compiled_step(),
      functools.partial(feed, hook=hook),
      config,
      checkpointer,
      log,
      directory / "profile",
    )
  finally:
    checkpointer.close()
    log.close()


def story(directory):
  return [
    {k: v for k, v in r.items() if k not in WALL_CLOCK}
    for r in read_metrics(directory / "metrics.jsonl")
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Eight steps without interruption."""
  directory = tmp_path_factory.mktemp("whole")
  state, position = run(directory, 8)
  return types.SimpleNamespace(state=state, position=position, story=story(directory))


def assert_whole(directory, state, position, whole):
  jax.tree.map(np.testing.assert_array_equal, state, whole.state)
  assert position == whole.position
  assert story(directory) == whole.story


def test_logs_each_step_and_counts_tokens_exactly(whole):
  assert [r["step"] for r in whole.story] == list(range(1, 9))
  assert whole.position.tokens == 8 * 10**13
  assert whole.story[-1]["tokens_seen"] == 8 * 10**13


@pytest.mark.parametrize("first", [1, 3, 5])
def test_resumes_bit_for_bit(tmp_path, whole, first):
  run(tmp_path, first)
  assert_whole(tmp_path, *run(tmp_path, 8), whole)


def test_a_run_that_died_between_saves_repeats_its_steps_once(tmp_path, whole):
  def die(step, batch):
    if step == 6:
      raise KeyboardInterrupt
    return batch

  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, 8, die)
  assert [r["step"] for r in story(tmp_path)] == [1, 2, 3, 4]  # the last saved was step 3
  assert_whole(tmp_path, *run(tmp_path, 8), whole)


def test_a_finished_run_is_left_as_it_is_and_says_so(tmp_path, whole, capsys):
  run(tmp_path, 8)
  assert "nothing to do" not in capsys.readouterr().err
  assert_whole(tmp_path, *run(tmp_path, 8), whole)
  assert capsys.readouterr().err == "finished at step 8 of 8; nothing to do\n"


def test_sigterm_saves_the_step_under_way(tmp_path, whole):
  def terminate(step, batch):
    if step == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  with pytest.raises(Terminated, match="saved after step 5"):
    run(tmp_path, 8, terminate)
  assert_whole(tmp_path, *run(tmp_path, 8), whole)


@pytest.mark.parametrize(("scale", "reason"), [(np.nan, "step 5 is nan"), (100.0, "3.0 times")])
def test_divergence_stops_and_names_the_last_good_checkpoint(tmp_path, whole, scale, reason):
  def spoil(step, batch):
    return batch * scale if step == 5 else batch

  with pytest.raises(TrainingDiverged, match=reason) as error:
    run(tmp_path, 8, spoil, spike_factor=3.0)
  assert str(tmp_path / "checkpoints" / "3") in str(error.value)
  assert Checkpointer(tmp_path / "checkpoints").latest_step() == 3
  assert_whole(tmp_path, *run(tmp_path, 8), whole)


def test_divergence_at_a_saving_step_is_not_saved(tmp_path):
  with pytest.raises(TrainingDiverged):
    run(tmp_path, 8, lambda step, batch: batch * (np.nan if step == 6 else 1))
  assert Checkpointer(tmp_path / "checkpoints").latest_step() == 3


def test_ends_with_its_data_and_saves(tmp_path, capsys):
  def end(step, batch):
    if step > 4:
      raise StopIteration
    return batch

  _, position = run(tmp_path, 8, end)
  assert position.step == 4
  assert Checkpointer(tmp_path / "checkpoints").latest_step() == 4
  assert "nothing to do" not in capsys.readouterr().err
  run(tmp_path, 8, end)
  told = "finished at step 4 of 8, where its data ends; nothing to do\n"
  assert capsys.readouterr().err == told


def test_metrics_are_read_after_the_next_step_is_dispatched(tmp_path):
  events = []

  class Value:
    def __init__(self, step):
      self.step = step

    def __array__(self, *args, **kwargs):
      events.append(f"read {self.step}")
      return np.float32(1.0)

    def __float__(self):
      events.append(f"read {self.step}")
      return 1.0

  count = iter(range(1, 99))

  def step(state, batch, knobs):
    number = next(count)
    events.append(f"dispatch {number}")
    return state, {"loss": Value(number)}

  checkpointer, log = Checkpointer(tmp_path / "checkpoints"), MetricsLog(tmp_path)
  config = LoopConfig(steps=4, progress_seconds=9.0)
  loop.train(create(), Position(), step, feed, config, checkpointer, log)
  first_read = {n: events.index(f"read {n}") for n in (1, 2, 3, 4)}
  for number in (1, 2, 3):
    assert first_read[number] > events.index(f"dispatch {number + 1}")


def test_profile_steps_leaves_a_trace(tmp_path):
  run(tmp_path, 3, profile_steps="2-2")
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["3", "0-2", "5-3", "a-b"])
def test_bad_profile_steps_are_named(text):
  with pytest.raises(ConfigError, match="train.profile_steps"):
    LoopConfig(steps=3, profile_steps=text)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_bad_seconds_are_named(seconds):
  with pytest.raises(ConfigError, match=f"train.progress_seconds is {seconds}"):
    LoopConfig(steps=3, progress_seconds=seconds)


def test_log_every_logs_multiples_and_the_last(tmp_path):
  run(tmp_path, 8, log_every=3)
  assert [r["step"] for r in story(tmp_path)] == [3, 6, 8]


def test_a_step_that_diverged_is_told_before_what_the_next_feed_finds(tmp_path):
  def hook(step, batch):
    if step == 3:  # as sampling does with weights that are no numbers
      raise ConfigError("the model's logits are no finite numbers")
    return batch * np.float32(np.nan) if step == 2 else batch

  with pytest.raises(TrainingDiverged, match="of step 2 is nan"):
    run(tmp_path, 8, hook)


@pytest.mark.parametrize("gap", [0.7, float("nan")])
def test_a_metric_above_its_limit_stops_the_run_and_names_the_field(tmp_path, gap):
  """Read before anything of the step is saved; what the step before logged is kept."""

  def step(state, batch, knobs):
    state, metrics = compiled_step()(state, batch, knobs)
    return state, {**metrics, "gap": np.float32(gap if state.step == 6 else 0.5)}

  def limited(position, state):
    limits = {"gap": Limit(0.5, "rl.largest"), "absent": Limit(0.0, "x")}
    return dataclasses.replace(feed(position, state), limits=limits)

  checkpointer, log = Checkpointer(tmp_path / "checkpoints"), MetricsLog(tmp_path)
  config = LoopConfig(steps=8, checkpoint_every=3)
  message = f"the gap of step 6 is {gap}, more than rl.largest, 0.5; training stops"
  with pytest.raises(TrainingDiverged, match=message) as error:
    loop.train(create(), Position(), step, limited, config, checkpointer, log)
  assert str(tmp_path / "checkpoints" / "3") in str(error.value)
  assert checkpointer.latest_step() == 3
  records = story(tmp_path)
  assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
  assert "stopped" not in records[4] and records[5]["stopped"] in str(error.value)
  assert records[5]["gap"] == (None if np.isnan(gap) else pytest.approx(gap))
  assert records[5]["loss"] > 0, "what else was measured is there as well"
  checkpointer.close()


def test_a_run_that_stops_at_its_first_step_leaves_what_was_measured(tmp_path, whole):
  def spoil(step, batch):
    return batch * (np.float32(np.nan) if step == 1 else 1)

  with pytest.raises(TrainingDiverged, match="step 1 is nan.*there is none"):
    run(tmp_path, 8, spoil, log_every=5)
  (record,) = story(tmp_path)
  assert record["step"] == 1 and record["loss"] is None and "is nan" in record["stopped"]
  assert_whole(tmp_path, *run(tmp_path, 8), whole)


class Watch:
  """A monitor that notes what it sees."""

  def __init__(self, at, look=lambda: None):
    self.at, self.seen, self.hook = at, [], look

  def due(self, step):
    return step in self.at

  def look(self, step, weights):
    self.hook()
    self.seen.append((step, np.asarray(weights.params["gate_DF"])))


def watched(directory, monitor, hook=None):
  checkpointer, log = Checkpointer(directory / "checkpoints"), MetricsLog(directory)
  config = LoopConfig(steps=8, checkpoint_every=3)
  try:
    state, position = loop.begin(abstract_state(create), create, checkpointer, log)
    each = functools.partial(feed, hook=hook)
    return loop.train(
      state, position, compiled_step(), each, config, checkpointer, log, monitor=monitor
    )
  finally:
    checkpointer.close()
    log.close()


def test_a_monitor_looks_when_it_wants_and_changes_nothing(tmp_path, whole):
  logged = []
  monitor = Watch({0, 3, 7}, lambda: logged.append(len(story(tmp_path))))
  assert_whole(tmp_path, *watched(tmp_path, monitor), whole)
  assert [step for step, _ in monitor.seen] == [0, 3, 7]
  assert logged == [0, 3, 7], "the steps before have been read"
  np.testing.assert_array_equal(monitor.seen[0][1], create().weights.params["gate_DF"])


def test_a_monitors_time_is_no_steps(tmp_path, monkeypatch):
  ticks, spent = itertools.count(), []
  monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks) + sum(spent))
  watched(tmp_path, Watch({4, 5}, lambda: spent.append(1e6)))
  assert len(spent) == 2
  assert all(r["seconds"] < 1e4 for r in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_monitor_never_sees_what_has_diverged(tmp_path):
  monitor = Watch(range(9))
  with pytest.raises(TrainingDiverged):
    watched(tmp_path, monitor, lambda step, batch: batch * (np.nan if step == 5 else 1))
  assert [step for step, _ in monitor.seen] == [0, 1, 2, 3, 4]
