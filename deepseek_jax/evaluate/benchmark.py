"""A benchmark by its name: a task, a file of problems, or a dataset."""

from deepseek_jax.evaluate import mathematics
from deepseek_jax.evaluate.file_benchmark import FileBenchmark, load_file_benchmark
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.task import Task

_TASKS = ("code:", "chosen:", "prompts:", "isolated:", "reasoning_gym:")  # then a name or a file


def open_benchmark(name: str, judge: str | None = None, split: str = "test") -> Task:
  """A file, directory or Hub's dataset (see `load_file_benchmark`), else the task of that name.

  ConfigError if there is none.
  """
  spelled = "/" in name or name.endswith((".json", ".jsonl"))
  task = name.startswith(_TASKS) or " + " in name
  if local_path(name).exists() or (spelled and not task):
    return load_file_benchmark(name, judge, split)
  return load_task(name)


def judge_of(task: Task) -> str:
  """What judges a benchmark from a file, as a protocol has it; of a task nothing."""
  if not isinstance(task, FileBenchmark):
    return ""
  return f"math-verify {mathematics.installed()}" if task.judge == "math-verify" else task.judge
