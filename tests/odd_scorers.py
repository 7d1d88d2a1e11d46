"""Scorers and tasks that misbehave in the ways in which users' do."""

import os
import sys
import time
from typing import NamedTuple

import numpy as np

from deepseek_jax.tasks.task import Problem, Score


def make(greeting="done"):
  """What a worker calls: the first argument says what it does."""

  def scorer(what, argument=None):
    if what == "sleep":
      time.sleep(argument)
    if what == "spin":
      while True:
        pass
    return ACTS.get(what, lambda _: greeting)(argument)

  return scorer


def broken():
  """A maker that fails."""
  raise RuntimeError("no such verifier")


def leave(status):
  """Ends the process."""
  os._exit(status)


def touch(path):
  """Writes a file."""
  with open(path, "w") as file:
    file.write("x")


def fork(_):
  """Starts another process."""
  return os.fork()


def connect(_):
  """Opens a socket."""
  import socket

  return socket.socket()


def raise_error(_):
  """Fails as any code may."""
  raise ValueError("two\nlines")


def deep(n):
  """Recurses without end."""
  return deep(n)


def loud(_):
  """Prints where judgements go out."""
  print("x" * 100_000, flush=True)
  sys.stderr.write("y" * 100_000)
  return "printed"


ACTS = {
  "eval": lambda source: eval(source),
  "exec": lambda source: exec(source),
  "memory": lambda size: len(bytearray(size)),
  "leave": leave,
  "kill": lambda _: os.kill(os.getpid(), 9),
  "abort": lambda _: os.abort(),
  "exit": lambda status: sys.exit(status),
  "touch": touch,
  "fork": fork,
  "connect": connect,
  "remove": os.remove,
  "raise": raise_error,
  "deep": deep,
  "loud": loud,
  "long": lambda size: "x" * size,
  "object": lambda _: object(),
  "echo": lambda value: value,
}


class Own(NamedTuple):
  """A user's own kind of score."""

  correct: float
  format: float
  language: float


class Odd:
  """A task whose every judgement is what its problem says."""

  name = "odd"

  def __init__(self):
    self.pid = os.getpid()

  def sample(self, split, index, seed, language=None):
    """Problem `index`."""
    return Problem(prompt="sum 1 1 ?", task=self.name, key=str(index), data=("raise", None))

  def score(self, problem, text):
    """Misbehaves."""
    what, argument = problem.data
    if what == "score":
      return Score(argument, 1.0, 1.0)
    if what == "numpy":
      return Own(np.float32(argument), np.int64(1), 1)
    if what == "pid":
      return Score(float(os.getpid() == argument), 1.0, 1.0)
    return make()(what, argument)


class OddReplies(Odd):
  """A task whose every reply is what its problem says, and whose judgement is the last word's."""

  def reply(self, problem, exchange):
    """Misbehaves."""
    return make()(*problem.data)

  def score(self, problem, text):
    """Of the last turn."""
    return Score(float(text == "right"), 1.0, 1.0)


class OddExchanges(OddReplies):
  """The same, with a judgement of the whole exchange."""

  def score_exchange(self, problem, exchange):
    """Of the number of texts."""
    return Score(1.0 / len(exchange), 1.0, 1.0)


class OddWords:
  """A task whose judgement fails in the way that the words of an answer say."""

  name = "odd words"

  def sample(self, split, index, seed, language=None):
    """One of three questions."""
    return Problem(prompt=f"{'abc'[index % 3]} ?", task=self.name, key=str(index % 3))

  def score(self, problem, text):
    """Of `d`s; an `a` raises, and an `e` at the beginning ends the process."""
    words = text.split()
    if "a" in words:
      raise ValueError(f"an a in {text!r}")
    if words[:1] == ["e"]:
      os._exit(3)
    return Score(words.count("d") / max(len(words), 1), 1.0, float(problem.key == "1"))


class OddTalk(OddWords):
  """The same of the last turn; `b` is not answered, and a `c` at the beginning fails."""

  def reply(self, problem, exchange):
    """Until it hears `b`."""
    words = exchange[-1].split()
    if words[:1] == ["c"]:
      raise KeyError("c")
    return None if "b" in words else "d ?"
