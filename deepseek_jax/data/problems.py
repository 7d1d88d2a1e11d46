"""Procedural problems with worked solutions, as a corpus of random access."""

import dataclasses

from deepseek_jax.data.document import Document
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import Split, Task, stream

ENDLESS = 2**40  # documents; grain wants a length


@dataclasses.dataclass(frozen=True)
class ProblemSource:
  """Document `index`: the prompt of problem `index` of a split and a solution of uneven quality.

  A `grain.sources.RandomAccessDataSource`. Languages are half and half by the task's own draw.
  """

  task: Task
  seed: int
  split: Split = "train"
  size: int = ENDLESS

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> Document:
    problem = self.task.sample(self.split, int(index), self.seed)
    solution = write_solution(problem, stream(self.seed, "solution", self.split, int(index)))
    # The space keeps prompt and solution apart for tokenizers that read characters.
    return Document(text=" " + solution, prompt=problem.prompt)
