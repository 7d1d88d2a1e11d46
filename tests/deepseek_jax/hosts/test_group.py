"""Processes that meet on loopback, tell one another, and notice who is lost."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.hosts import group
from deepseek_jax.hosts.heartbeat import LOST, Patience
from tests.processes import Processes, free_port

AGAIN = "the run ends; the same command goes on from its newest checkpoint"


@pytest.mark.parametrize(
  ("coordinator", "processes", "process", "told"),
  [
    ("somewhere", 2, 0, "--coordinator is 'somewhere'; give HOST:PORT"),
    ("a:b", 2, 0, "--coordinator is 'a:b'; give HOST:PORT"),
    ("a:1", None, 0, "not --processes and --process"),
    ("a:1", 0, 0, "--processes is 0; it must be positive"),
    ("a:1", 2, 2, "--process is 2; it must be one of 0 to 1"),
    ("a:1", 2, -1, "--process is -1"),
    ("auto", 2, None, "leave them out"),
    ("auto", None, None, "asks the scheduler .* in vain"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(coordinator, processes, process, told):
  with pytest.raises(ConfigError, match=told):
    group.join(coordinator, processes, process, Patience())


def test_a_scheduler_says_who_belongs_together(monkeypatch):
  slurm = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
  }
  for name, value in slurm.items():
    monkeypatch.setenv(name, value)
  assert group._scheduled(Patience()) == ("node003:61441", 2, 1, [0])


def test_alone_everything_is_this_process():
  assert group.first() and not group.several()
  assert group.from_first(lambda: 3) == 3
  group.same("number", 4)
  group.part()


def test_processes_tell_vote_and_part():
  with Processes(2, 1, ["tests.together", "slow"]) as both:
    ended = both.wait()
  for status, said in ended:
    assert status == 0, said
    assert "told {'by': 0}\nmuch 10000000\nrefused process 0 refuses.\n" in said
    assert "decided [False, False, False, True, True]" in said
    assert said.endswith("parted\n")
  assert "process 1 is slow: the others waited" in ended[0][1]
  assert "is slow" not in ended[1][1]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_the_others_with_a_sentence(victim):
  with Processes(3, 1, ["tests.together", "goes on"]) as all_:
    while all_.running() and not all_.said(victim, "decided"):
      time.sleep(0.1)
    all_.kill(victim)
    for other in {0, 1, 2} - {victim}:
      ((status, said),) = all_.wait(other)
      assert status == LOST, said
      assert said.count(f"process {victim} is lost: nothing was heard of it for") == 1
      assert said.count(AGAIN) == 1 and "Fatal" not in said


def test_one_that_is_stopped_is_lost_and_ends_when_it_wakes():
  with Processes(2, 1, ["tests.together", "goes on", "--silence=8"]) as both:
    while both.running() and not both.said(1, "decided"):
      time.sleep(0.1)
    both.kill(1, signal.SIGSTOP)
    ((status, said),) = both.wait(0)
    assert status == LOST and "process 1 is lost: nothing was heard of it for 8 s" in said
    both.kill(1, signal.SIGCONT)
    ((status, said),) = both.wait(1)
    assert status != 0, said


def test_one_that_hangs_ends_all_with_a_sentence_that_says_where():
  with Processes(2, 1, ["tests.together", "hang"]) as both:
    for status, said in both.wait():
      assert status == LOST, said
      assert "process 1 hangs: it has stood at step 5 for 25 s" in said


def test_an_error_of_one_is_told_by_all_and_keeps_its_status():
  with Processes(2, 1, ["tests.together", "error"]) as both:
    (first, told), (status, said) = both.wait()
  assert first == LOST and "process 1 ended by an error (of its own)" in told
  assert status == 2 and said.endswith("process 1: of its own.\n")


def test_an_error_of_all_is_told_once():
  with Processes(2, 1, ["tests.together", "all errors"]) as both:
    ended = both.wait()
  assert [status for status, _ in ended] == [2, 2]
  assert [said.count("all the same.") for _, said in ended] == [1, 0]


def test_errors_of_their_own_are_told_by_each():
  with Processes(2, 1, ["tests.together", "own errors"]) as both:
    ended = both.wait()
  assert [status for status, _ in ended] == [2, 2]
  assert ended[0][1].endswith("that of 0.\n") and ended[1][1].endswith("process 1: that of 1.\n")


def test_where_others_do_not_come_or_the_port_is_taken_there_is_a_sentence():
  text = "from deepseek_jax.hosts import group, heartbeat\n"
  text += "group.join('127.0.0.1:{port}', 2, {process}, heartbeat.Patience(meeting=5))"
  taken = socket.socket(socket.AF_INET6)
  with taken:
    taken.bind(("::", 0))
    taken.listen()
    cases = [
      (0, taken.getsockname()[1], 2, "this machine cannot listen at"),
      (1, free_port(), LOST, "not all of 2 met at"),
    ]
    for process, port, status, told in cases:
      done = subprocess.run(
        [sys.executable, "-c", text.format(port=port, process=process)],
        capture_output=True,
        text=True,
        timeout=300,
      )
      assert done.returncode == status, done.stderr
      assert done.stderr.startswith(f"process {process}: ") and told in done.stderr
      assert len(done.stderr.splitlines()) == 1
