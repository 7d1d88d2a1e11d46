"""Models and datasets by their names on the Hugging Face Hub: `org/name` or `org/name@revision`.

What is fetched lies in huggingface_hub's own cache, by its own settings (HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE, ...). Pickles and code are not fetched. Whatever exists here by that name is what is
meant: `runs/mini` is a directory before it is a model of the Hub's.
"""

import functools
import os
import re
from pathlib import Path

from deepseek_jax.config import ConfigError
from deepseek_jax.paths import local_path

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_FILES = {
  "model": ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt"],
  "dataset": ["*.parquet", "*.arrow", "*.jsonl", "*.json", "*.md"],
}


def model_path(name: str | os.PathLike[str]) -> Path:
  """The path of that name, or the folder of the Hub's model of that name.

  Raises:
    ConfigError: there is neither, or it cannot be fetched.
  """
  return _path(name, "model")


def dataset_path(name: str | os.PathLike[str]) -> Path:
  """The path of that name, or the folder of the Hub's dataset; errors as `model_path`."""
  return _path(name, "dataset")


def pinned(name: str, kind: str = "model") -> str:
  """The name with the revision it stands for now, which is what a run keeps; a path as it is."""
  path = _path(name, kind)
  found = _NAME.fullmatch(name)
  if found is None or path == local_path(name):
    return name
  return f"{found['repo']}@{path.name}"


def _path(name: str | os.PathLike[str], kind: str) -> Path:
  path, found = local_path(name), _NAME.fullmatch(os.fspath(name))
  if found is None or path.exists():
    return path
  return _fetch(found["repo"], found["revision"], kind)


@functools.cache
def _fetch(repo: str, revision: str | None, kind: str) -> Path:
  """The snapshot's folder, from the cache or the Hub."""
  neither = f"{repo} is no file or directory here"
  try:
    import huggingface_hub
  except ImportError as error:
    raise ConfigError(
      f"{neither}; if it is a {kind} of the Hugging Face Hub, pip install 'deepseek-jax[hf]'."
    ) from error
  try:
    folder = huggingface_hub.snapshot_download(
      repo,
      repo_type=kind,
      revision=revision,
      allow_patterns=_FILES[kind],
      ignore_patterns=["*/*"] if kind == "model" else None,  # of a model its own files only
    )
  except Exception as error:  # of the network, the Hub, the disk, in the words of three libraries
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    at = f" at revision {revision}" if revision else ""
    raise ConfigError(
      f"{neither}, and the Hugging Face Hub gave no {kind} of that name{at} ({reason})."
    ) from error
  return Path(folder)
