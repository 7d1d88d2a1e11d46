"""The programs; `python -m experiments.NAME` runs one.

Started so, a program first gives its process a setting that a CPU wants and that can only be made
before it begins, GLIBC_TUNABLES, unless the user has set it: memory in huge pages, from heaps that
keep what is freed. XLA allocates a step's temporaries anew each time; the kernel spends a fifth of
a small step on clearing them, and up to half of a large one where other programs run.

All threads in one heap wait for one another: compiling takes up to half as long again, and a step
of the mini up to 1.7 times as long. But in heaps of their own what is above 64 MiB goes back to the
kernel each time, 4.7 GB in a GRPO step on SmolLM2 that takes a fifth longer for it. So programs
that train share one heap where the command line names a pretrained model of some size.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_HEAPS = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}")
_TRAIN = ("bench", "distill", "grpo", "pretrain", "sft")
_LARGE = 2**26  # bytes of a checkpoint


def heaps(command: Sequence[str]) -> str:
  """GLIBC_TUNABLES for `python -m experiments.NAME ...`."""
  trains = any(f"experiments.{name}" in command for name in _TRAIN)
  one = trains and any(size > _LARGE for size in map(_checkpoint_bytes, command))
  settings = (*_HEAPS, "arena_max=1") if one else _HEAPS
  return ":".join(f"glibc.malloc.{setting}" for setting in settings)


def _checkpoint_bytes(argument: str) -> int:
  """Of the GGUF file or Hugging Face directory that a flag names; 0 where it names none."""
  path = Path(argument.partition("=")[2] or argument)
  try:
    return sum(file.stat().st_size for file in _tensor_files(path))
  except OSError:  # among them a name too long to be one
    return 0


def _tensor_files(path: Path) -> Iterator[Path]:
  if path.suffix == ".gguf":
    yield path
  elif path.is_dir():
    yield from path.glob("*.safetensors")


if sys.argv[0] == "-m" and sys.platform == "linux":  # true only while -m looks for the program
  if "GLIBC_TUNABLES" not in os.environ:
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": heaps(sys.orig_argv)})
