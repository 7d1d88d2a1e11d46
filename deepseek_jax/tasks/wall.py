"""The wall around processes in which verifiers run that are not ours: bubblewrap's, where it is.

It is the wall of programs that a model wrote (see `code/bubblewrap.py`) with more to be seen behind
it: the interpreter and its packages, this package, and the modules that a verifier is imported
from, all of it read-only. There is no network, no home, no environment but Python's own settings,
and no other process. It costs only when a process starts. Where there is no bubblewrap, or it may
not be used, a verifier has its seal alone (see `seal.py`), which is told once.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code import bubblewrap
from deepseek_jax.tasks.code.sandbox import in_memory
from deepseek_jax.tasks.code.seccomp import refusing

HINT = (
  "it runs without a network, and sees no other files than Python, its packages, the verifier's "
  "module or package, and what its task names in `files`"
)
_SETTINGS = ("PYTHON", "LANG", "LC_", "LD_LIBRARY_PATH")  # variables that are kept, by beginnings
_OF_PREFIX = ("bin", "lib", "lib64", "pyvenv.cfg")
_STARTING = 120.0  # seconds that a trial may take, on a machine with much else to do
_DISK = 2**25  # bytes of what a module keeps for itself while it is imported
_PROCESSES = 64  # one is needed; the kernel of an ordinary user may count others of the user's too
_TRIAL = "from deepseek_jax.tasks import worker"


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a verifier's process runs: how its command begins, and what it has to be given."""

  command: tuple[str, ...] = ()
  descriptors: tuple[int, ...] = ()
  environment: dict[str, str] = dataclasses.field(default_factory=lambda: {**os.environ})
  processes: int | None = None  # at most
  user: int | None = None  # whom it becomes before it reads what a model wrote

  @property
  def walled(self) -> bool:
    """Whether there is a wall around it."""
    return bool(self.command)


@contextlib.contextmanager
def place(module: str, files: Sequence[str] = ()) -> Iterator[Place]:
  """The place for one process that imports `module` and reads `files`; started inside `with`."""
  bwrap = _bubblewrap(os.getuid(), os.environ.get("PATH", ""))
  if bwrap is None:
    yield Place()
    return
  shown = [*_of_python(), *_of_modules(module), *map(os.path.abspath, files)]
  user = bubblewrap.user()
  hidden = None if user is None else next(filter(_is_hidden, shown), None)
  if hidden is not None:
    _tell(f"run behind bubblewrap's wall as root, who alone may read {hidden}")
    user = None
  with _behind(bwrap, shown, user) as found:
    yield found


@contextlib.contextmanager
def _behind(bwrap: str, shown: Iterable[str], user: int | None) -> Iterator[Place]:
  """A place behind the wall, where what scores becomes this user."""
  folder = Path.cwd()
  command = [bwrap, *bubblewrap.alone(becoming=user is not None)]
  command += bubblewrap.view(shown, _links(sys.executable))
  for path in (*[*folder.parents][-2::-1], folder):  # for what names files from here
    command += ["--perms", "0755", "--dir", str(path)]
  command += ["--perms", "1777", "--size", str(_DISK), "--tmpfs", bubblewrap.WORK]
  kept = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
  environment = {**kept, "HOME": bubblewrap.WORK, "TMPDIR": bubblewrap.WORK}
  with contextlib.ExitStack() as stack:
    descriptor = in_memory(refusing(), stack)
    command += ["--remount-ro", "/", "--chdir", str(folder), "--seccomp", str(descriptor), "--"]
    yield Place(tuple(command), (descriptor,), environment, _PROCESSES, user)


def _of_python() -> Iterator[str]:
  """The interpreter, its library and all that is installed for it."""
  yield from bubblewrap.of_python()
  for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)}:
    yield from (os.path.join(prefix, name) for name in _OF_PREFIX)
  for path in map(os.path.abspath, sys.path):
    if os.path.isfile(path) or os.path.basename(path) in ("site-packages", "dist-packages"):
      yield path
  yield "/etc/alternatives"  # Debian's links from one library to another


def _links(path: str) -> Iterator[str]:
  """A path and, where it is a link, those that it leads to, but for the last."""
  while os.path.islink(path):
    yield path
    path = os.path.join(os.path.dirname(path), os.readlink(path))


def _of_modules(module: str) -> Iterator[str]:
  """Where the module is imported from, and all that are imported here: whole packages.

  Beside a module in no package are further modules, which it may want later.
  """
  known = [*_of_python()]
  for name in {name.partition(".")[0] for name in (module, *sys.modules)}:
    try:
      spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # as of the main module
      continue
    if spec is None or bubblewrap.lies_in(spec.origin or "", known):
      continue
    if spec.submodule_search_locations is not None:
      yield from filter(os.path.isabs, spec.submodule_search_locations)
    elif spec.has_location and spec.origin:
      folder = Path(spec.origin).absolute().parent
      yield from map(str, {Path(spec.origin).absolute(), *folder.glob("*.py")})


def _is_hidden(path: str) -> bool:
  """Whether not everybody may read what is there."""
  needed = 0o5 if os.path.isdir(path) else 0o4
  return os.path.exists(path) and os.stat(path).st_mode & needed != needed


@functools.cache
def _bubblewrap(user: int, path: str) -> str | None:
  """bwrap where it works for a verifier's process; kept by what that depends on."""
  bwrap = bubblewrap.find_bubblewrap() if sys.platform == "linux" else None
  if bwrap is not None:
    trouble = _trouble(bwrap)
  elif sys.platform == "linux":
    trouble = "pip install 'deepseek-jax[code]' brings it"
  else:
    trouble = f"there is none for {sys.platform}"
  if not trouble:
    return bwrap
  _tell(f"have no bubblewrap's wall around their processes, but their seal alone ({trouble})")
  return None


def _trouble(bwrap: str) -> str:
  """Why a process cannot run behind the wall; nothing if it can."""
  program = f"import sys; sys.path[:] = {[*map(os.path.abspath, sys.path)]!r}; {_TRIAL}"
  try:
    with _behind(bwrap, [*_of_python(), *_of_modules(__name__)], None) as found:
      done = subprocess.run(
        [*found.command, sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=found.descriptors,
        env=found.environment,
        timeout=_STARTING,
      )
  except (OSError, ConfigError, subprocess.TimeoutExpired) as error:
    return f"{bwrap} cannot be used: {error}"
  words = done.stderr.decode(errors="replace").split("\n")
  return f"{bwrap} fails: {' '.join(words[-2:]).strip()}" if done.returncode else ""


@functools.cache
def _tell(what: str) -> None:
  print(f"Verifiers that are not ours {what}.", file=sys.stderr, flush=True)
