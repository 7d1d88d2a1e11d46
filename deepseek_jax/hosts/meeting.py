"""The place where processes meet: JAX's coordination service, in a process of its own.

  python -m deepseek_jax.hosts.meeting ADDRESS PROCESSES SILENCE PARENT

JAX has it in the first process, and aborts all others the moment it is gone. Here the first process
starts it, and it outlives that for as long as the others need to hear that the first is silent.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from jaxlib import _jax

_MORE = 10  # times the silence after which a process is lost: JAX is not to be the first to notice
_ROOT = Path(__file__).parents[2]


def begin(coordinator: str, processes: int, silence: int) -> subprocess.Popen[bytes]:
  """Starts the service at the port of HOST:PORT, this machine; it ends some time behind this
  process.
  """
  address = f"[::]:{coordinator.rpartition(':')[2]}"
  arguments = [address, str(processes), str(silence), str(os.getpid())]
  return subprocess.Popen(
    [sys.executable, "-m", "deepseek_jax.hosts.meeting", *arguments],
    cwd=_ROOT,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,  # it would report what the processes themselves say better
    start_new_session=True,  # what a terminal tells the first process is not for this one
  )


def timeout(silence: int) -> int:
  """Seconds after which JAX itself gives a process up."""
  return _MORE * silence


def main(address: str, processes: int, silence: int, parent: int) -> None:
  """Serves until the parent is gone, and then until the others have noticed."""
  service = _jax.get_distributed_runtime_service(
    address, processes, heartbeat_timeout=timeout(silence), shutdown_timeout=timeout(silence)
  )
  while os.getppid() == parent:
    time.sleep(1.0)
  time.sleep(2 * silence)
  del service
  os._exit(0)


if __name__ == "__main__":
  main(sys.argv[1], *map(int, sys.argv[2:]))
