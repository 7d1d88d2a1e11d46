"""Who is lost, who hangs, and who is only slow, by what processes say of themselves."""

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.hosts.heartbeat import Beat, Patience, Watcher

PATIENCE = Patience(silence=20, hang=30.0, slow=5.0)


class Run:
  """Two processes and a clock."""

  def __init__(self):
    self.watcher, self.now = Watcher(2, PATIENCE, 0.0), 0.0
    self.beats = {i: Beat(0, 0, "its start") for i in range(2)}
    self.told = []

  def go(self, seconds, alive=(0, 1), moving=(0, 1), **look):
    """So many seconds in which some are heard, and some of those move; the last verdict."""
    verdict = ""
    for _ in range(seconds):
      self.now += 1.0
      for i in alive:
        moves = self.beats[i].moves + (i in moving)
        place = f"step {moves}" if i in moving else self.beats[i].place
        self.beats[i] = Beat(self.beats[i].number + 1, moves, place, self.beats[i].ended)
      verdict, told = self.watcher.look(self.beats, self.now, **look)
      self.told += told
      if verdict:
        break
    return verdict


@pytest.fixture
def run():
  return Run()


def test_a_run_in_which_all_move_goes_on(run):
  assert run.go(200) == "" and run.told == []


def test_a_process_that_is_not_heard_is_lost_after_the_silence(run):
  run.go(20)
  assert run.go(19, alive=[0], moving=[]) == ""
  assert run.go(1, alive=[0], moving=[]) == "process 1 is lost: nothing was heard of it for 20 s"


def test_a_process_that_never_said_anything_is_lost_too(run):
  assert "process 0 is lost" in run.go(20, alive=[1])


def test_suspicion_shortens_the_silence(run):
  run.go(20)
  assert run.go(4, alive=[0], moving=[], suspicious=True) == ""
  assert "process 1 is lost" in run.go(1, alive=[0], moving=[], suspicious=True)


def test_a_process_that_is_heard_but_stands_behind_the_others_hangs(run):
  run.go(20)
  assert run.go(2, moving=[0]) == ""
  assert run.go(28, moving=[]) == ""
  assert run.go(1, moving=[]) == "process 1 hangs: it has stood at step 20 for 30 s"


def test_a_process_that_comes_in_the_end_is_slow_and_only_told(run):
  run.go(20)
  run.go(1, moving=[0])
  assert run.go(6, moving=[]) == ""
  assert run.go(10) == ""
  assert run.told == ["process 1 is slow: the others waited 7 s for it at step 20"]


def test_a_short_wait_is_not_told(run):
  run.go(20)
  run.go(4, moving=[0])
  assert run.go(10, moving=[1]) == "" and run.told == []


def test_where_nobody_moves_nobody_is_behind(run):
  run.go(20)
  assert run.go(500, moving=[]) == "" and run.told == []


def test_a_process_is_not_charged_for_the_time_before_the_others_went_on(run):
  run.go(20)
  run.go(100, moving=[])  # all compile
  run.go(1, moving=[0])
  assert run.go(28, moving=[]) == ""
  assert "process 1 hangs" in run.go(5, moving=[])


def test_a_process_that_ends_by_an_error_ends_the_run_soon_after(run):
  run.go(20)
  run.beats[1] = Beat(99, 21, "step 21", "Traceback\n  in file\nValueError: the disk is full.")
  assert run.go(8, alive=[0], moving=[]) == ""
  assert run.go(5, alive=[0], moving=[]) == (
    "process 1 ended by an error (ValueError: the disk is full)"
  )


def test_a_process_that_ends_is_not_said_to_hang(run):
  run.go(20)
  run.go(1, moving=[0])
  run.go(22, moving=[])
  run.beats[1] = Beat(99, 20, "step 20", "the disk is full.")
  assert "process 1 ended by an error (the disk is full)" in run.go(11, alive=[0], moving=[])


def test_patience_must_be_positive():
  with pytest.raises(ConfigError, match="--hang_seconds is 0; it must be positive"):
    Patience(hang=0)
