"""Scorers that go round Python's audit hook, and what they try; a program that tells the outcomes.

The functions of C are found while the module is imported, before there is a hook: calling them
then raises no event. What remains is the wall of `wall.py`.
"""

import ctypes
import json
import os
import sys
import tempfile
from pathlib import Path

from deepseek_jax.tasks import wall
from deepseek_jax.tasks.workers import Limits, Workers

ROOT = Path(__file__).parents[1]
LIMITS = Limits(seconds=2.0, wall=20.0, memory=2**28)
_NAMES = ("open", "socket", "kill", "getppid", "fork", "pause", "unlink", "unshare", "setuid")
_C = {name: getattr(ctypes.CDLL(None), name) for name in _NAMES}


def make():
  """What a worker calls: by C or by Python, and with what."""
  return lambda how, *given: _ACTS[how](*given)


def _parent():
  return _C["kill"](_C["getppid"](), 9)


def _bomb():
  """How many processes it could start."""
  for count in range(200):
    child = _C["fork"]()
    if child == 0:
      while True:
        _C["pause"]()
    if child < 0:
      return count
  return count


_ACTS = {
  "c": lambda name, *given: _C[name](*given),
  "read": lambda path: len(Path(path).read_text()),
  "folder": os.listdir,
  "environment": lambda: [*os.environ],
  "user": lambda: [*os.getresuid(), *os.getresgid(), *os.getgroups()],
  "parent": _parent,
  "bomb": _bomb,
  "echo": lambda value: value,
}


def attempts(secret, folder, pid):
  """Calls that give a number of at least 0 where they succeed, by what they are after."""
  new = os.O_WRONLY | os.O_CREAT
  return {
    "the users": ("c", "open", b"/etc/passwd", os.O_RDONLY),
    "the shadows": ("c", "open", b"/etc/shadow", os.O_RDONLY),
    "a file of ours": ("c", "open", os.fsencode(secret), os.O_RDONLY),
    "the same by Python": ("read", secret),
    "the project": ("c", "open", os.fsencode(ROOT / "pyproject.toml"), os.O_RDONLY),
    "its history": ("c", "open", os.fsencode(ROOT / ".git"), os.O_RDONLY),
    "the home": ("c", "open", os.fsencode(Path.home()), os.O_RDONLY | os.O_TMPFILE, 0o600),
    "writing there": ("c", "open", os.fsencode(Path(folder, "escaped")), new, 0o600),
    "writing beside itself": ("c", "open", os.fsencode(f"{__file__}.escaped"), new, 0o600),
    "removing itself": ("c", "unlink", os.fsencode(f"{__file__}.none")),
    "a socket": ("c", "socket", 2, 1, 0),
    "a socket to its host": ("c", "socket", 40, 1, 0),
    "namespaces": ("c", "unshare", 0x10000000),
    "becoming root": ("c", "setuid", 0),
    "our life": ("c", "kill", pid, 0),
    "processes": ("folder", "/proc"),
  }


def outcomes(secret, folder):
  """The outcome of every attempt, and of what else tells how things are."""
  pool = Workers("tests.hostile_scorers:make", count=2, limits=LIMITS)
  calls = {
    **attempts(secret, folder, os.getpid()),
    "environment": ("environment",),
    "user": ("user",),
    "bomb": ("bomb",),
  }
  found = [(o.value, o.failure, o.message) for o in pool.call([*calls.values()])]
  killed = pool.call([("echo", 1), ("parent",), ("echo", 2)])
  named = dict(zip(calls, found, strict=True))
  named["parent"] = [(o.value, o.failure, o.message) for o in killed]
  pool.close()
  return named


def main():
  """Prints the outcomes and whether there is a wall."""
  os.environ["HF_TOKEN"] = "secret"
  with tempfile.TemporaryDirectory() as folder, wall.place(__name__) as place:
    secret = Path(folder, "secret")
    secret.write_text("7")
    found = outcomes(str(secret), folder)
    left = sorted(path.name for path in Path(folder).iterdir())
  told = {"user": os.getuid(), "walled": place.walled, "outcomes": found, "left": left}
  json.dump(told, sys.stdout)


if __name__ == "__main__":
  main()
