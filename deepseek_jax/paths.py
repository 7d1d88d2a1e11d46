"""Paths as people write them."""

import errno
import os
from pathlib import Path

from deepseek_jax.config import ConfigError


def local_path(path: str | os.PathLike[str]) -> Path:
  """The path, with `~` and `~user` at its beginning as the home directory they stand for.

  A shell leaves them as they are in `--workdir=~/runs`, and Python always does. ConfigError for
  what is no path, or a name longer than the file system has any.
  """
  try:
    found = Path(path).expanduser()
  except RuntimeError as error:  # of a user without a home
    raise ConfigError(f"{os.fspath(path)} cannot be found ({error}); write it out.") from error
  except TypeError as error:
    raise ConfigError(f"{path!r:.100} is no path; give a text or a pathlib.Path.") from error
  try:
    os.stat(found)
  except (OSError, ValueError) as error:  # whether it is there is for the caller to ask
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
      raise ConfigError(f"{str(found)[:60]}... is too long a name for a file; check it.") from error
  return found
