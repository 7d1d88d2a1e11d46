"""What is timed, what is not, and with what note."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.bench import measure, timing
from pallas_kernels.bench.cases import ROUNDED, Case, Form, Limits
from pallas_kernels.bench.work import Work
from pallas_kernels.dispatch import Unsupported

WORK = Work(100, 100)


def _case(kernel, others=()):
  """Doubles an array; `kernel` is what the kernel for TPUs does."""

  def call(x, *, implementation):
    return kernel(x) if implementation == "tpu" else 2 * x

  def make(key):
    return {"own": (jax.random.normal(key, (64,)),)}

  return Case("double", "64", call, make, WORK, others=others)


class FakeTimer:
  """Seconds by name for a program of one call; remembers whom it was asked to time."""

  def __init__(self, **seconds):
    self.seconds = seconds
    self.asked = []

  def __call__(self, programs):
    self.asked += programs
    for program in programs.values():
      self.results = len(program())
    return {name: self.seconds.get(name, 8.0) * self.results for name in programs}


def test_a_right_kernel_is_timed_beside_xlas_fastest_form():
  other = Form("sum", lambda x: x + x, WORK, ROUNDED)
  timer = FakeTimer(kernel=2.0, XLA=6.0, sum=3.0)
  rows = measure.measure(_case(lambda x: 2 * x, (other,)), "tpu", timer, caches=3 * 64 * 4)
  assert timer.results == 3  # so many sets exceed the caches
  assert [(row.form.name, row.seconds, row.gain) for row in rows] == [
    ("kernel", 2.0, 1.5),
    ("sum", 3.0, None),
  ]


@pytest.mark.parametrize(
  "kernel, note",
  (
    (lambda x: (2 * x).at[7].add(0.5), "wrong: differs by"),
    (lambda x: (2 * x).at[7].set(jnp.nan), "wrong: differs by nan"),
    (lambda x: 2 * x[:32], "wrong: the result has other shapes"),
  ),
)
def test_a_wrong_kernel_is_reported_and_not_timed(kernel, note):
  timer = FakeTimer()
  first, second = measure.measure(_case(kernel), "tpu", timer)
  assert first.form.name == "kernel" and first.seconds is None and first.gain is None
  assert first.note.startswith(note)
  assert timer.asked == ["XLA"] and second.seconds == 8.0


def test_a_kernel_that_cannot_run_is_reported_and_xla_is_timed():
  def unsupported(x):
    raise Unsupported("64 is odd.")

  def broken(x):
    raise RuntimeError("out of memory\nwith details")

  for kernel, note in (
    (unsupported, "not supported: 64 is odd."),
    (broken, "failed: RuntimeError: out of memory"),
  ):
    timer = FakeTimer()
    row, _ = measure.measure(_case(kernel), "tpu", timer)
    assert row.note == note and timer.asked == ["XLA"]


def test_a_case_that_fails_as_a_whole_is_one_row():
  def timer(programs):
    raise MemoryError("out of memory")

  (row,) = measure.measure(_case(lambda x: 2 * x), "tpu", timer)
  assert row.note == "failed: MemoryError: out of memory" and row.seconds is None


def test_a_wrong_form_of_xla_does_not_set_the_bar():
  other = Form("wrong", lambda x: 3 * x, WORK, ROUNDED)
  rows = measure.measure(_case(lambda x: 2 * x, (other,)), "tpu", FakeTimer(kernel=2.0, wrong=0.1))
  assert [row.form.name for row in rows] == ["kernel", "XLA", "wrong"]
  assert rows[0].gain == 4.0 and rows[2].seconds is None and rows[2].note.startswith("wrong")


def test_without_a_kernel_for_the_device_xla_alone_is_measured():
  (row,) = measure.measure(_case(lambda x: 2 * x), "xla", FakeTimer())
  assert row.form.name == "XLA" and row.seconds == 8.0


def test_one_bad_element_and_a_small_error_everywhere_are_both_seen():
  x = jnp.ones(10_000).at[0].set(100.0)
  assert measure.difference(x, x, Limits(0.0, 0.0)) == ""
  assert "wrong" in measure.difference(x.at[5].add(3.0), x, Limits(1.0, 0.02))
  assert measure.difference(x.at[5].add(1.0), x, Limits(1.0, 0.02)) == ""
  assert "wrong" in measure.difference(1.1 * x, x, Limits(1e-4, 1.0))


def test_the_clock_takes_the_median_of_turns(monkeypatch):
  times = {"a": iter((9.0, 1.0, 5.0, 1.0, 2.0)), "b": iter((9.0, 1.0, 3.0, 7.0, 4.0))}
  turns = []

  def measured(program, rounds):
    turns.append(program())
    return next(times[turns[-1]])

  monkeypatch.setattr(timing, "_measured", measured)
  seconds = timing.Clock(repeats=3, least=1.0)({"a": lambda: "a", "b": lambda: "b"})
  assert seconds == {"a": 2.0, "b": 4.0}
  assert turns[4:] == list("ababab")  # after two to warm up and count rounds of each


def test_a_program_makes_every_call_on_operands_of_its_own():
  program = timing.in_turn(lambda x, y: x + y, [(1.0, 2.0), (1.0, 2.0), (3.0, 4.0)])
  assert [float(x) for x in program()] == [3.0, 3.0, 7.0]


def test_sets_exceed_the_caches_within_reason():
  assert timing.sets_of(100, caches=350) == 4
  assert timing.sets_of(1 << 30) == 1
  assert timing.sets_of(1) == timing.MOST_SETS
