"""Programs that want a reward without the work, judged as root and as an ordinary user."""

import functools
import os
import socket
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code.judge import Outcome, judge
from deepseek_jax.tasks.code.sandbox import Sandbox, sandbox
from tests import hostile_programs, ordinary_user

ROOT = Path(__file__).parents[4]
HOSTILE = hostile_programs.hostile("/secret", 1)
# The outcome where it is always the same, for the kinds of failure to be told apart.
TOLD = {
  "loops": "timeout",
  "sleeps": "timeout",
  "bombs": "timeout",
  "loops when called": "timeout",
  "allocates 10 GB": "memory",
  "forgery: takes all memory when called": "memory",
  "floods its output": "wrong",
  "idle: the first line": "wrong",
  "idle: something more": "wrong",
  "idle: no Python": "crash",
  "forgery: leaves when called": "crash",
  "forgery: equal to everything": "wrong",
}


@functools.cache
def found(user):
  """What every program came to where root or an ordinary user judges it, or why nobody can."""
  try:
    sandbox()
  except ConfigError as error:
    return str(error)
  if user == "root":
    return hostile_programs.outcomes() if os.getuid() == 0 else "these tests do not run as root"
  if os.getuid() != 0:
    return hostile_programs.outcomes()
  told = ordinary_user.run(hostile_programs.__file__)
  return told if isinstance(told, str) else told["outcomes"]


def outcome(user, name):
  """The outcome of one program; skips with the reason where there is none."""
  outcomes = found(user)
  if isinstance(outcomes, str):
    pytest.skip(outcomes)
  return outcomes[name]


def accepted(name, outcomes):
  return outcomes[name][0] == Outcome.PASS.value


@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize("name", HOSTILE)
def test_is_not_accepted(name, user):
  kind, message, seconds = outcome(user, name)
  assert not accepted(name, found(user)), message
  assert kind != "infrastructure", message
  assert kind == TOLD.get(name, kind), message
  assert seconds < 60


@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize("name", hostile_programs.SOUND)
def test_is_accepted(name, user):
  kind, message, _ = outcome(user, name)
  assert accepted(name, found(user)), (kind, message)


def test_a_judge_that_accepts_everything_would_be_found_out():
  stub = {name: ["pass", "", 0.0] for name in HOSTILE}
  assert all(accepted(name, stub) for name in HOSTILE), "each of the tests above would fail"
  assert len(HOSTILE) > 80


@pytest.mark.parametrize(
  "name",
  [
    "reads the users",
    "reads a file of ours",
    "reads the project",
    "finds the project",
    "imports what is installed",
    "sees processes",
    "runs another program",
    "connects",
    "opens a socket",
    "takes memory that nobody counts",
    "opens many files",
  ],
)
def test_what_is_tried_would_succeed_without_a_sandbox(name, tmp_path):
  secret = tmp_path / "secret"
  secret.write_text("7")
  with socket.create_server(("127.0.0.1", 0)) as listener:
    cases, text = hostile_programs.hostile(str(secret), listener.getsockname()[1])[name]
    limits = hostile_programs.LIMITS
    if name == "opens many files":
      limits = type(limits)(open_files=200)
    verdict = judge(Sandbox(None), cases, text, limits)
  assert verdict.outcome is Outcome.PASS, verdict


def test_nothing_was_written_outside():
  for user in ("root", "ordinary"):
    found(user)
  for folder in ("/", "/tmp", "/usr/lib", "/dev", "/dev/shm", "/etc", "/root", str(ROOT)):
    assert not Path(folder, "escaped").exists(), folder
