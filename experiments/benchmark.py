"""The benchmark that flags name: a task, or a file or dataset of prompts and answers."""

from absl import flags

from deepseek_jax.config import require
from deepseek_jax.evaluate.benchmark import judge_of, open_benchmark
from deepseek_jax.evaluate.file_benchmark import JUDGES, FileBenchmark
from deepseek_jax.tasks.code.task import Code
from deepseek_jax.tasks.task import Task

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines --benchmark, --problems, --judge and --split."""
  flags.DEFINE_string("benchmark", None, "A task, a file of JSON lines, or a dataset.")
  flags.DEFINE_integer("problems", None, "How many; by default 256, or all of a file.")
  flags.DEFINE_enum(
    "judge", None, JUDGES, "Of a file's answers; math-verify where it is installed."
  )
  flags.DEFINE_string("split", "test", "Of a dataset; CONFIGURATION/SPLIT where it has several.")


def chosen() -> Task:
  """The benchmark of --benchmark: a file, directory or Hub's dataset, else a task."""
  return open_benchmark(FLAGS.benchmark, FLAGS.judge, FLAGS.split)


def size(task: Task) -> int:
  """How many problems are asked: --problems, or else all of a file's, if they are few."""
  if FLAGS.problems is not None:
    return FLAGS.problems
  if isinstance(task, Code):
    return min(256, len(task.of_split("heldout")))
  return len(task.problems) if isinstance(task, FileBenchmark) else 256


def judge(task: Task) -> str:
  """What judges a benchmark from a file, as the protocol has it."""
  if not isinstance(task, FileBenchmark):
    for flag in ("judge", "split"):
      require(
        not FLAGS[flag].present,
        f"--{flag} is for a benchmark from a file or dataset, and {FLAGS.benchmark} is a task.",
      )
  return judge_of(task)
