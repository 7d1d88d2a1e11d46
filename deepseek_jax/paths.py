"""Paths as people write them."""

import os
from pathlib import Path

from deepseek_jax.config import ConfigError


def local_path(path: str | os.PathLike[str]) -> Path:
  """The path, with `~` and `~user` at its beginning as the home directory they stand for.

  A shell leaves them as they are in `--workdir=~/runs`, and Python always does.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError as error:  # of a user without a home
    raise ConfigError(f"{os.fspath(path)} cannot be found ({error}); write it out.") from error
