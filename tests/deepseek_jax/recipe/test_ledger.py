"""The clock and the ledger: no second is counted twice, and old entries are read."""

import jax
import jax.numpy as jnp
import pytest

from deepseek_jax.recipe import clock as clocks
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.ledger import Entry, of_any_version, seconds_by_part


@pytest.fixture
def now(monkeypatch):
  """Moves the time: `now(3)` lets three seconds pass."""
  seconds = [0.0]
  monkeypatch.setattr(clocks.time, "monotonic", lambda: seconds[0])
  return lambda more: seconds.__setitem__(0, seconds[0] + more)


@pytest.fixture
def compiling(monkeypatch, now):
  """`compiling(3)` lets XLA compile a program for three seconds."""
  watch = clocks.compilation.watch()

  def compile_for(seconds):
    now(seconds)
    monkeypatch.setattr(watch, "seconds", watch.seconds + seconds)
    monkeypatch.setattr(watch, "programs", watch.programs + 1)

  return compile_for


def test_a_part_within_another_and_compiling_are_taken_out_of_it(now, compiling):
  clock = Clock()
  now(1)
  compiling(2)
  with clock("training"):
    now(4)
    compiling(8)
    with clock("sampling"):
      now(16)
      compiling(32)
    now(64)
  with clock("sampling"):
    now(128)
  entry = Entry("base", "teacher", None, None)
  entry.time(clock)
  assert seconds_by_part([entry.as_dict()]) == {
    "compile": 42, "training": 68, "sampling": 144, "evaluation": 0, "drawing": 0,
    "rest": 1, "total": 255,
  }  # fmt: skip
  assert (entry.programs, entry.cached) == (3, 0)


def test_the_clock_sees_what_jax_compiles():
  clock = Clock()
  jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.ones(7)).block_until_ready()
  assert clock.programs + clock.cached > 0
  assert 0 < clock.compile_seconds < clock.total


def test_an_earlier_version_s_entry_is_read():
  now = Entry("base", "teacher", None, None, steps=3)
  old = {k: v for k, v in now.as_dict().items() if k in ("stage", "steps", "selection")}
  old |= {"seconds": 10.0, "compile_seconds": 4.0, "evaluation_seconds": 2.0}
  read = of_any_version(old)
  parts = seconds_by_part([read, now.as_dict()])
  assert (parts["compile"], parts["rest"], parts["total"]) == (4, 8, 12)
  assert of_any_version(now.as_dict()) == now.as_dict()
