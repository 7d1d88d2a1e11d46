"""What a task is: problems drawn by counter, and a verifier.

A user's own task is any object with `name`, `sample` and `score` (see `registry.load_task`):

  class Parity:
    name = "parity"

    def sample(self, split, index, seed, language=None):
      n = stream(seed, self.name, split, index).randrange(1000)
      return Problem(prompt=f"is {n} even ?", task=self.name, key=f"parity {n}", data=n)

    def score(self, problem, text):
      ...
      return Score(correct=1.0, format=1.0, language=1.0)

A task may also answer what a model says and have it go on: see `environment.py`. It may also say
which answers a thought arrives at on its way, for `experiments.reflection`, which does not ask it
after `isolated:`:

    def candidates(self, problem, thought):
      return [Candidate("even", m.start(), m.end()) for m in re.finditer("even", thought)]
"""

import dataclasses
import hashlib
import random
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Problem:
  """One question. `key` is its identity whatever the wording or the language."""

  prompt: str  # what the model reads; for the mini tasks it ends with `?`
  task: str  # name of the task that can score it
  key: str
  language: str = "en"  # in which it is asked, and in which the thought is wanted
  data: Any = None  # what the verifier needs: digits and target, terms, a reasoning-gym entry
  answer: str | None = None  # where there is only one; of programs to write, a right one


@dataclasses.dataclass(frozen=True)
class Score:
  """A verifier's judgement of one completion; each figure lies in [0, 1]."""

  correct: float
  format: float  # the completion is one closed thought, then one closed answer
  language: float  # share of the thought's words that are in the problem's language
  failure: str = ""  # why the verifier could not judge, `KIND: SENTENCE`; it counts as wrong then
  judge: str = ""  # the rule that decided, of a task that has several
  said: float | None = None  # right in whatever form it is said; None: the task does not judge that

  @property
  def failed(self) -> str:
    """The kind of failure (see `scoring.py`), or nothing."""
    return self.failure.partition(":")[0]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """An answer that a thought arrives at, and the characters of the thought that say it."""

  answer: str
  start: int
  end: int


@runtime_checkable
class Task(Protocol):
  """Problems without end, and the rule that judges their answers."""

  @property
  def name(self) -> str:
    """Identifies the task in problems and reports."""
    ...

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """Problem `index` of a split: a pure function of its arguments.

    `language` None draws one. No problem of one split ever occurs in the other, under any seed.
    """
    ...

  def score(self, problem: Problem, text: str) -> Score:
    """Judges a completion (without its prompt); any text at all must be safe to pass.

    A task that judges many at once quicker may have a `score_each` like `scoring.score_each`; one
    whose answers cannot be counted as equal or different, a `comparable` that is False.
    """
    ...


def takes_turns(task: Task) -> bool:
  """Whether a task answers what a model says (see `environment.py`).

  One that stands for others says so itself, by an attribute of this name.
  """
  said = getattr(task, "takes_turns", None)
  return callable(getattr(task, "reply", None)) if said is None else bool(said)


def stream(seed: int, *counter: str | int) -> random.Random:
  """Random numbers that depend on the arguments only, on every machine and Python version.

  The seed is hashed as text (SHA-512), which Python keeps stable between versions.
  """
  return random.Random("/".join(map(str, (seed, *counter))))


def fraction(seed: int, *counter: str | int) -> float:
  """One number in [0, 1) that depends on the arguments only; cheaper than a whole stream."""
  return hash_of("/".join(map(str, (seed, *counter)))) / 2**64


def hash_of(text: str) -> int:
  """64 bits of a text's SHA-256: the same on every machine, unlike Python's own hash."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
