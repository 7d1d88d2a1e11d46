"""SHA256SUMS: the SHA-256 of every file of a directory, in the format of the tool sha256sum.

Written with every export, and held against the files before they are read. A directory without it
is read as well, and its user told once that nothing vouches for the data: on standard error,
through the logger "deepseek_jax.hub", which can be silenced as any other.
"""

import functools
import hashlib
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping

from deepseek_jax.config import ConfigError, require

FILE = "SHA256SUMS"
_LINE = re.compile(
  r"([0-9a-f]{64})  ([^/\\\x00-\x1f\x7f-\x9f\u2028\u2029]+)"
)  # one printable file name
_CHUNK = 1 << 22

logger = logging.getLogger("deepseek_jax.hub")
logger.addHandler(logging.lastResort or logging.StreamHandler())  # the bare text
logger.propagate = False
logger.setLevel(logging.WARNING)


def write(folder: pathlib.Path, known: Mapping[str, str]) -> None:
  """Writes the sums of all files in `folder`; those `known` by file name are not computed again.

  What lies in a folder below it is nothing that is read here.
  """
  names = sorted(path.name for path in folder.iterdir() if not path.is_dir())
  sums = [f"{known.get(name) or _digest(folder / name)}  {name}\n" for name in names]
  (folder / FILE).write_text("".join(sums), encoding="utf-8")


def verify(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Refuses the directory unless the named files, if it has sums, are those they were made of.

  Raises:
    ConfigError: a file that is not listed or whose sum is another; a damaged list.
  """
  if not (folder / FILE).exists():
    tell_once(f"{folder} has no {FILE}; its data was not verified.")
    return
  sums = _read(folder / FILE)
  for name in names:
    require(
      name in sums,
      f"{folder / name} is not listed in {FILE}; remove it, or {FILE} if you put it there.",
    )
    same = _digest(folder / name) == sums[name]
    require(
      same,
      f"{folder / name} differs from what {FILE} says; fetch it again, or remove {FILE} if you "
      "changed it.",
    )


def listed(folder: pathlib.Path) -> list[str]:
  """The files that the directory's list names; none without a list."""
  return list(_read(folder / FILE)) if (folder / FILE).exists() else []


def _read(path: pathlib.Path) -> dict[str, str]:
  """Sums by file name."""
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path} cannot be read ({error}); fetch it again or remove it.") from error
  *lines, rest = text.split("\n")
  found = [_LINE.fullmatch(line) for line in lines]
  sums = {match[2]: match[1] for match in found if match}
  whole = rest == "" and len(sums) == len(lines) > 0
  require(whole, f"{path} is damaged; fetch it again or remove it.")
  return sums


def _digest(path: pathlib.Path) -> str:
  """The SHA-256 of a file, which is read piece by piece."""
  digest = hashlib.sha256()
  try:
    with open(path, "rb", buffering=0) as file:
      while data := file.read(_CHUNK):
        digest.update(data)
  except OSError as error:
    raise ConfigError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
  return digest.hexdigest()


@functools.cache
def tell_once(text: str) -> None:
  """Warns the user of what a directory holds, not again whenever it is read."""
  logger.warning("%s", text)
