"""Judging what is said while the rest is still being said.

Only for tasks whose verifiers run in other processes, which they tell by an attribute `elsewhere`:
judging is then waiting, and sampling need not wait with it. What was said since is judged together,
so that many processes have something to do. Scores are those of judging all at the end, for each
hangs on its own text alone.
"""

import queue
import threading

from deepseek_jax.tasks.scoring import score_exchanges
from deepseek_jax.tasks.task import Problem, Score, Task


def elsewhere(task: Task) -> bool:
  """Whether the task's verifier runs in other processes and may be called from another thread."""
  return bool(getattr(task, "elsewhere", False))


class Judging:
  """A thread that judges exchanges as they come; used in `with`, which an error leaves at once."""

  def __init__(self, task: Task) -> None:
    self._task = task
    self._said: queue.SimpleQueue[tuple[int, Problem, tuple[str, ...]] | None]
    self._said = queue.SimpleQueue()
    self._scores: dict[int, Score] = {}
    self._error: BaseException | None = None
    self._thread = threading.Thread(target=self._judge_all, daemon=True)

  def __enter__(self) -> "Judging":
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._said.put(None)

  def add(self, place: int, problem: Problem, exchange: tuple[str, ...]) -> None:
    """One more to be judged; `place` is what its score is found by."""
    self._said.put((place, problem, exchange))

  def scores(self) -> dict[int, Score]:
    """The scores of all that were added, by place, as soon as there are all. Then none may follow.

    Raises:
      ConfigError: as `score_exchanges`.
    """
    self._said.put(None)
    self._thread.join()
    if self._error is not None:
      raise self._error
    return self._scores

  def _judge_all(self) -> None:
    try:
      more = True
      while more:
        heard = [self._said.get()]
        while not self._said.empty():  # none but this thread takes from it
          heard.append(self._said.get())
        more = None not in heard
        if items := [one for one in heard if one is not None]:
          places, problems, said = zip(*items, strict=True)
          found = score_exchanges(self._task, problems, said)
          self._scores.update(zip(places, found, strict=True))
    except BaseException as error:  # whatever it is, whoever wants the scores has to know
      self._error = error
