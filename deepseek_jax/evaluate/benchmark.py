"""A benchmark by its name: a task, a file of problems, or a dataset."""

import dataclasses

from deepseek_jax.config import require
from deepseek_jax.evaluate import mathematics
from deepseek_jax.evaluate.file_benchmark import FileBenchmark, load_file_benchmark
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.registry import BUILT_IN, load_task
from deepseek_jax.tasks.task import Task

_TASKS = ("code:", "chosen:", "prompts:", "isolated:", "reasoning_gym:")  # then a name or a file


def open_benchmark(name: str, judge: str | None = None, split: str = "test") -> Task:
  """A file, directory or Hub's dataset (see `load_file_benchmark`), else the task of that name.

  ConfigError if there is none.
  """
  if _is_file(name):
    return load_file_benchmark(name, judge, split)
  return load_task(name, open_task)


def open_task(name: str) -> Task:
  """What a job trains on: a task by its name, or the problems of a file or dataset.

  Of those a fifth is held out, by a hash of what is asked. Of a dataset it is the split `train`, or
  `NAME#SPLIT`, `NAME#CONFIGURATION/SPLIT`.
  """
  place, _, split = (name, "", "") if local_path(name).exists() else name.partition("#")
  require(
    not split or not local_path(place).is_file(),
    f"task {name!r}: {place} is a file, which has no splits; leave #{split} out.",
  )
  task = open_benchmark(place, None, split or "train")
  return dataclasses.replace(task, divided=True) if isinstance(task, FileBenchmark) else task


def _is_file(name: str) -> bool:
  """Whether a name is that of a file, directory or dataset, and of no task."""
  if name in BUILT_IN:
    return False
  spelled = "/" in name or name.endswith((".json", ".jsonl"))
  task = name.startswith(_TASKS) or " + " in name
  return local_path(name).exists() or (spelled and not task)


def judge_of(task: Task) -> str:
  """What judges a benchmark from a file, as a protocol has it; of a task nothing."""
  if not isinstance(task, FileBenchmark):
    return ""
  return f"math-verify {mathematics.installed()}" if task.judge == "math-verify" else task.judge
