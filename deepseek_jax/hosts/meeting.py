"""The place where processes meet: JAX's coordination service, in a process of its own.

  python -m deepseek_jax.hosts.meeting ADDRESS PROCESSES SILENCE PARENT

JAX has it in the first process, and aborts all others the moment it is gone. Here the first process
starts it, and it outlives that for as long as the others need to hear that the first is silent.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from jaxlib import _jax

_MORE = 10  # times the silence after which a process is lost: JAX is not to be the first to notice
_NOTICED = 10  # seconds in which the others notice what the first has
_ROOT = Path(__file__).parents[2]
_service: subprocess.Popen[bytes] | None = None  # of the first process


def begin(coordinator: str, processes: int, silence: int) -> None:
  """Starts the service at the port of HOST:PORT, which is this machine."""
  global _service
  address = f"[::]:{coordinator.rpartition(':')[2]}"
  arguments = [address, str(processes), str(silence), str(os.getpid())]
  _service = subprocess.Popen(
    [sys.executable, "-m", "deepseek_jax.hosts.meeting", *arguments],
    cwd=_ROOT,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,  # it would report what the processes themselves say better
    start_new_session=True,  # what a terminal tells the first process is not for this one
  )


def closed() -> bool:
  """Whether the service has ended: it could not listen there."""
  return _service is not None and _service.poll() is not None


def end(soon: bool = False) -> None:
  """Ends the service, if it is this process's; `soon`: once the others have had time to notice."""
  if _service is not None:
    _service.send_signal(signal.SIGTERM if soon else signal.SIGKILL)


def timeout(silence: int) -> int:
  """Seconds after which JAX itself gives a process up."""
  return _MORE * silence


def main(address: str, processes: int, silence: int, parent: int) -> None:
  """Serves until it is told to end, or the parent is silent for as long as the others wait."""
  told = threading.Event()
  signal.signal(signal.SIGTERM, lambda *_: told.set())
  service = _jax.get_distributed_runtime_service(
    address, processes, heartbeat_timeout=timeout(silence), shutdown_timeout=timeout(silence)
  )
  while os.getppid() == parent and not told.wait(1.0):
    pass
  told.wait(silence)
  told.clear()
  told.wait(_NOTICED)
  del service
  os._exit(0)


if __name__ == "__main__":
  main(sys.argv[1], *map(int, sys.argv[2:]))
