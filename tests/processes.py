"""Programs over several processes on loopback, with devices and compiled programs as tests want."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]
SECONDS = 600  # after which a test gives up; no test waits so long
_NOISE = re.compile(r"^\[Gloo\] .*\n|^[WE]\d{4} .*\n", re.MULTILINE)
_EMITTERS = ["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []


def environment(devices: int) -> dict[str, str]:
  """Of a process with so many CPU devices, which compiles as tests do (see conftest.py)."""
  flags = " ".join([os.environ.get("XLA_FLAGS", ""), *_EMITTERS]).strip()
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": flags,
  }


def free_port() -> int:
  """A port that nobody listens at."""
  with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    return one.getsockname()[1]


class Processes:
  """So many processes of one program, ended with the `with` that they are used in."""

  def __init__(self, count: int, devices: int, arguments: Sequence[str]):
    """Runs `python -m ARGUMENTS...` so many times, each with so many devices."""
    coordinator = f"127.0.0.1:{free_port()}"
    self._folder = tempfile.TemporaryDirectory()
    self.processes = []
    for i in range(count):
      own = [f"--coordinator={coordinator}", f"--processes={count}", f"--process={i}"]
      with open(self._output(i), "w") as output:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, "-m", *arguments, *own],
            cwd=ROOT,
            env=environment(devices),
            stdout=output,
            stderr=subprocess.STDOUT,
          )
        )

  def __enter__(self) -> "Processes":
    return self

  def __exit__(self, *_: object) -> None:
    for process in self.processes:
      process.kill()
      process.wait()
    self._folder.cleanup()

  def _output(self, which: int) -> Path:
    return Path(self._folder.name) / str(which)

  def kill(self, which: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Sends one of them a signal."""
    self.processes[which].send_signal(how)

  def running(self) -> bool:
    """Whether none has ended."""
    return all(process.poll() is None for process in self.processes)

  def said(self, which: int, words: str) -> bool:
    """Whether one of them has said so by now."""
    return words in self._output(which).read_text()

  def wait(self, *which: int) -> list[tuple[int, str]]:
    """The status of each (by default of all) at its end, and what it said, but not libraries."""
    ended = []
    for i in which or range(len(self.processes)):
      status = self.processes[i].wait(SECONDS)
      ended.append((status, _NOISE.sub("", self._output(i).read_text())))
    return ended


def run_alone(devices: int, arguments: Sequence[str]) -> str:
  """Runs `python -m ARGUMENTS...` in one process to a good end; what it said."""
  command = [sys.executable, "-m", *arguments]
  done = subprocess.run(
    command, cwd=ROOT, env=environment(devices), text=True, capture_output=True, timeout=SECONDS
  )
  assert done.returncode == 0, done.stderr
  return done.stderr
