"""The processes of a run: how they meet, what one tells the others, and how they part.

Every process runs the same program on the same config and takes the same steps, as JAX wants it
(multi-controller). What only one of them may do, writing files above all, the first does. Alone, a
process is the first of one, and everything here costs it nothing.

Small things are told through JAX's coordination service (see `meeting.py`), as do
`jax.experimental.multihost_utils` and Orbax, by the same private name.
"""

import contextlib
import functools
import itertools
import json
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from jax._src import clusters, distributed

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import heartbeat, meeting

_CLOSED = 2  # exit status where nobody can meet at the place given: bad input
T = TypeVar("T")
_LONG = 24 * 3600 * 1000  # milliseconds; a process that is lost ends a wait long before
_PARTING = 12.0  # seconds in which processes that end by an error wait for those that do not
_LATER = 3600  # seconds after which JAX itself would give up
_told = itertools.count()


def several() -> bool:
  """Whether there is another process than this. Looks for no devices."""
  return distributed.global_state.num_processes > 1


def first() -> bool:
  """Whether this is the process that writes and speaks for all; of one that is alone, true."""
  return distributed.global_state.process_id == 0


def join(
  coordinator: str, processes: int | None, process: int | None, patience: heartbeat.Patience
) -> None:
  """Makes this process one of those that run the program; before JAX looks for devices.

  `coordinator` is HOST:PORT on the machine of the first process, the same for all; with "auto" that
  and the two numbers are the scheduler's (SLURM, Open MPI, GKE, a TPU's metadata), as JAX reads it.

  Raises:
    ConfigError: the flags do not go together. Where the others do not come the process ends.
  """
  _check(coordinator, processes, process)
  own_devices: Sequence[int] | None = None
  if coordinator == "auto":
    coordinator, processes, process, own_devices = _scheduled(patience)
  assert processes is not None and process is not None  # as checked
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is the loop's
  if process == 0:
    meeting.begin(coordinator, processes, patience.silence)
  with _bounded(coordinator, processes, process, patience.meeting):
    jax.distributed.initialize(
      coordinator_address=coordinator,
      num_processes=processes,
      process_id=process,
      local_device_ids=own_devices,
      cluster_detection_method="deactivate",
      initialization_timeout=patience.meeting + _LATER,
      heartbeat_timeout_seconds=meeting.timeout(patience.silence),
      coordinator_bind_address="127.0.0.1:0",  # of JAX's own service, where nobody goes
    )
  heartbeat.begin(client(), process, processes, patience)


@contextlib.contextmanager
def _bounded(coordinator: str, processes: int, process: int, seconds: int) -> Iterator[None]:
  """Ends this process with a sentence where the others do not come in so many seconds.

  JAX would abort it with a trace of its own. Connecting cannot be interrupted.
  """
  met = threading.Event()

  def wait() -> None:
    end, closed = time.monotonic() + seconds, False
    while not (closed or met.wait(0.2)) and time.monotonic() < end:
      closed = meeting.closed()
    if met.is_set():
      return
    told = f"not all of {processes} met at --coordinator {coordinator} in {seconds} s; start all"
    if closed:
      told = (
        f"this machine cannot listen at --coordinator {coordinator}; give a port of it that is "
      )
      told += "free (that of a run that was just lost is so a little later)"
    print(f"process {process}: {told}.", file=sys.__stderr__, flush=True)
    heartbeat.leave(_CLOSED if closed else heartbeat.LOST)

  waiting = threading.Thread(target=wait, daemon=True)
  waiting.start()
  yield
  met.set()
  waiting.join()


def _scheduled(patience: heartbeat.Patience) -> tuple[str, int, int, Sequence[int] | None]:
  """What the scheduler says: the meeting place, how many processes, which this is, its devices."""
  told: str | Exception
  try:
    place, processes, process, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, patience.meeting
    )
    if place is not None and processes is not None and process is not None:
      return place, processes, process, devices
    told = "none is there that JAX knows"
  except Exception as error:  # of whatever the scheduler's own library raises
    told = error
  raise ConfigError(
    f"--coordinator=auto asks the scheduler which processes belong together, in vain ({told}); "
    "give --coordinator=HOST:PORT, --processes and --process."
  )


def _check(coordinator: str, processes: int | None, process: int | None) -> None:
  """ConfigError unless the flags say one thing."""
  if coordinator == "auto":
    require(
      processes is None and process is None,
      "--coordinator=auto asks the scheduler, but --processes or --process is given; leave them "
      "out, or give --coordinator=HOST:PORT.",
    )
    return
  _, colon, port = coordinator.rpartition(":")
  require(
    bool(colon) and port.isdecimal(),
    f"--coordinator is {coordinator!r}; give HOST:PORT of the first process, or auto.",
  )
  require(
    processes is not None and process is not None,
    "--coordinator is given, but not --processes and --process; give how many there are and which "
    "this is, counted from 0, or --coordinator=auto under a scheduler.",
  )
  assert processes is not None and process is not None
  require(processes > 0, f"--processes is {processes}; it must be positive.")
  require(
    0 <= process < processes,
    f"--process is {process}; it must be one of 0 to {processes - 1}, for --processes is "
    f"{processes}.",
  )


def client() -> Any:
  """This process's end of the coordination service."""
  return distributed.global_state.client


def from_first(make: Callable[[], T]) -> T:
  """What `make` gives the first process, on all of them; the others do not call it.

  All processes must come here, in the same order. What is given must be picklable.

  Raises:
    ConfigError: on all of them, where `make` raises it on the first.
  """
  if not several():
    return make()
  key = f"told/{next(_told)}"
  heartbeat.move("asking the first process")
  if first():
    try:
      given, error = make(), None
    except ConfigError as raised:
      given, error = None, str(raised)
    client().key_value_set_bytes(key, pickle.dumps((given, error)))
  else:
    given, error = pickle.loads(client().blocking_key_value_get_bytes(key, _LONG))
  heartbeat.move("told")
  client().wait_at_barrier(f"{key}/heard", _LONG)
  if first():
    client().key_value_delete(key)
  if error is not None:
    raise ConfigError(error)
  return given  # type: ignore[return-value]


def same(what: str, value: Any) -> None:
  """ConfigError on a process whose `value` is not that of the first."""
  require(
    from_first(lambda: value) == value,
    f"the {what} of process {distributed.global_state.process_id} is not that of process 0; give "
    "all processes the same command, and what it reads.",
  )


def united(value: Any) -> Any:
  """The JSON objects of all processes as one, on all of them; what they share must be the same."""
  if not several():
    return value
  key = f"united/{next(_told)}"
  mine = f"{key}/{distributed.global_state.process_id}"
  client().key_value_set(mine, json.dumps(value))
  client().wait_at_barrier(key, _LONG)

  def collect() -> Any:
    parts = [json.loads(part) for _, part in client().key_value_dir_get(key)]
    client().key_value_delete(key)
    return functools.reduce(_union, parts)

  return from_first(collect)


def _union(one: Any, other: Any) -> Any:
  """Of two JSON values."""
  if isinstance(one, dict) and isinstance(other, dict):
    both = {name: _union(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **both}
  require(one == other, f"two processes are at different places of the data: {one} and {other}.")
  return one


def fail(message: str, status: int) -> None:
  """Ends this process by an error, which the others are told, with `message` on standard error.

  Where all end by errors, those of the same message as the first say nothing, and all end with
  their own status; else those that are left end with `heartbeat.LOST`.
  """
  if first():
    print(message, file=sys.stderr, flush=True)
  if several():
    mine = distributed.global_state.process_id
    failures: dict[int, str] = {}
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      heartbeat.tell(message)
      client().key_value_set(f"failed/{mine}", message)
      failures = _failures()
    if not first() and failures.get(0) != message:
      print(f"process {mine}: {message}", file=sys.stderr)
    if len(failures) < distributed.global_state.num_processes:
      heartbeat.leave(status)
  part()
  sys.exit(status)


def _failures() -> dict[int, str]:
  """What each process ends by, as soon as all do; or those that do, when the others have had time.

  One that ends, too, but draws a last page first, is waited for as long as it needs.
  """
  everyone, last = range(distributed.global_state.num_processes), time.monotonic() + _PARTING
  while True:
    found = client().key_value_dir_get("failed/")
    failures = {int(key.rpartition("/")[2]): message for key, message in found}
    missing = [i for i in everyone if i not in failures]
    if not missing or time.monotonic() > last:
      return failures
    if all(heartbeat.ending(i) for i in missing):
      last = time.monotonic() + _PARTING
    time.sleep(0.5)


def part() -> None:
  """Ends this process's share in the run, as all others do theirs."""
  if jax.distributed.is_initialized():
    client().wait_at_barrier("parting", _LONG)  # still with signs of life
    heartbeat.end()
    jax.distributed.shutdown()
    meeting.end()
