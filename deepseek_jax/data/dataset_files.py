"""Which files of a corpus are read: of a dataset's directory, those of one split.

A Hugging Face dataset says where its splits are in the head of its README.md, in the files that
`save_to_disk` leaves, or by the names of files and folders, as `datasets` reads them. A dataset of
several configurations is no corpus: they often hold the same rows, so that one has to be named, as
in `data.split=extended/train`. What is not certain is refused with the names there are.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from deepseek_jax.config import ConfigError, require
from deepseek_jax.paths import local_path

# The words in names that `datasets` takes for each split.
_WORDS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "dev", "val"),
  "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?$")
_HELPERS = ("dataset_info", "dataset_infos", "dataset_dict", "state")  # .json, and no records
_ROOT = "default"  # the configuration of files that lie in no folder


def find_files(path: str | Path, endings: tuple[str, ...]) -> list[Path]:
  """The file itself, or the files below a directory with one of the endings, in a fixed order.

  Args:
    path: a file, taken whatever its ending, or a directory. Hidden files and what `datasets` keeps
      beside the data are passed over.
    endings: such as `.txt`.

  Raises:
    ConfigError: there is no such path or no such file below it.
  """
  root = local_path(path)
  require(root.exists(), f"data.path {str(path)!r} does not exist.")
  if root.is_file():
    return [root]
  found = files_below(root, endings)
  require(bool(found), f"data.path {str(path)!r} holds no {' or '.join(endings)} files.")
  return found


def files_below(root: Path, endings: tuple[str, ...]) -> list[Path]:
  """The files below a directory that hold records, none of them hidden, in a fixed order."""
  return sorted(
    file
    for file in root.rglob("*")
    if file.suffix in endings
    and file.is_file()
    and not any(part.startswith(".") for part in file.relative_to(root).parts)
    and not _helps(file)
  )


def find_dataset(root: Path, split: str) -> list[Path]:
  """The files of one split of a Hugging Face dataset; see `find_split`.

  Arrow files are looked for first, then Parquet, then JSON.
  """
  for ending in (".arrow", ".parquet", ".jsonl", ".json"):
    if root.is_dir() and files_below(root, (ending,)):
      return find_split(root, (ending,), split, dataset=True)
  raise ConfigError(
    f"data.path {str(root)!r} is not a dataset directory of arrow, parquet, jsonl or json files."
  )


def find_split(
  path: str | Path, endings: tuple[str, ...], split: str, dataset: bool = False
) -> list[Path]:
  """The files of one split, `CONFIGURATION/SPLIT` where there are several configurations.

  A directory whose names tell no splits is all `train`. `dataset` is whether it is one of Hugging
  Face, whose README.md is heeded and whose folders are configurations even without splits in them.

  Raises:
    ConfigError: there are no such files, or it is not certain which are meant.
  """
  root = local_path(path)
  files = find_files(root, endings)
  if root.is_file():
    return files
  configuration, _, name = split.rpartition("/")
  declared = _declared(root, configuration) if dataset else {}
  if declared:
    require(
      name in declared,
      f"data.path {str(path)!r} has no split {name!r}; its splits are {', '.join(declared)}: set "
      "data.split to one of them.",
    )
    wanted = {file for pattern in declared[name] for file in _matches(root, pattern)}
    chosen = [file for file in files if file in wanted]
    require(bool(chosen), f"{root / 'README.md'} names no files of {name!r} that are there.")
    return chosen
  named = {file: split_named(file.relative_to(root)) for file in files}
  whole = not any(named.values())
  if whole:
    require(
      name == "train",
      f"data.path {str(path)!r} names no splits in its files, so that all is train and there is no "
      f"{name!r}; name a directory or file of its own, or set data.split to train.",
    )
    chosen = files
  else:
    chosen = _of_split(named, name, str(path))
  if whole and not dataset:
    return chosen
  return _of_configuration(root, chosen, configuration, name, str(path))


def split_named(path: Path) -> str:
  """The split that a relative path names: a folder that is called like one, or the file's own name.

  `train-00000-of-00002.parquet` is of `train`, and `train_sft-0.parquet` of `train_sft`.
  """
  folder = next((part for part in path.parts[:-1] if _kind(part)), "")
  stem = path.stem
  while _SHARD.search(stem):
    stem = _SHARD.sub("", stem)
  return folder or (stem if _kind(stem) else "")


def _kind(name: str) -> str:
  """The split that a name has a word of, or an empty string."""
  words = re.split(r"[-._ 0-9]+", name.lower())
  return next((kind for kind, known in _WORDS.items() if set(known) & set(words)), "")


def _of_split(named: Mapping[Path, str], split: str, path: str) -> list[Path]:
  """The files of exactly this split, or else of the only one that is one of its kind."""
  names = sorted({name for name in named.values() if name})
  alike = [name for name in names if name == split]
  if not alike:
    alike = [name for name in names if split in _WORDS.get(_kind(name), ())]
    alike += [name for name in names if _kind(name) == split and name not in alike]
  require(
    len(alike) == 1,
    f"data.path {path!r} holds {'no files' if not alike else 'several splits'} of the split "
    f"{split!r}; its splits are {', '.join(names)}: set data.split to one of them.",
  )
  return [file for file, name in named.items() if name == alike[0]]


def _of_configuration(
  root: Path, files: list[Path], wanted: str, split: str, path: str
) -> list[Path]:
  """The files of one configuration, which is a folder that holds splits."""
  groups: dict[str, list[Path]] = {}
  for file in files:
    folders = file.relative_to(root).parts[:-1]
    above = next((i for i, part in enumerate(folders) if _kind(part)), len(folders))
    groups.setdefault("/".join(folders[:above]) or _ROOT, []).append(file)
  if wanted or len(groups) > 1:
    require(wanted in groups, _choose(path, sorted(groups), split))
    return groups[wanted]
  return files


def _choose(path: str, configurations: Iterable[str], split: str) -> str:
  """What to say where a configuration has to be named."""
  names = [f"{name}/{split}" for name in configurations]
  return (
    f"data.path {path!r} holds several configurations, which may have the same rows; set "
    f"data.split to one of {', '.join(names)}."
    if len(names) > 1
    else f"data.path {path!r} has one configuration; set data.split to {', '.join(names)}."
  )


def _declared(root: Path, configuration: str) -> dict[str, list[str]]:
  """The patterns of files of each split, as the README.md says; nothing where it says nothing."""
  card = root / "README.md"
  head = (
    re.match(r"---\s*\n(.*?)\n---", card.read_text("utf-8-sig", "replace"), re.S)
    if (card.is_file())
    else None
  )
  try:
    fields = yaml.safe_load(head[1]) if head else None
  except (yaml.YAMLError, ValueError) as error:  # ValueError: of numbers and dates
    raise ConfigError(f"{card} has a head that is no YAML; mend it, or remove it.") from error
  entries = (fields.get("configs") if isinstance(fields, Mapping) else None) or []
  require(
    isinstance(entries, list)
    and all(isinstance(entry, Mapping) and "config_name" in entry for entry in entries),
    f"{card} has configs that are no list of entries with a config_name; mend it, or remove it.",
  )
  by_name = {str(entry["config_name"]): entry for entry in entries}
  if not by_name:
    return {}
  chosen = configuration or next((n for n, e in by_name.items() if e.get("default") is True), "")
  if not chosen and len(by_name) == 1:
    chosen = next(iter(by_name))
  elif not chosen and _ROOT in by_name:  # as `datasets` takes it
    chosen = _ROOT
  require(chosen in by_name, _choose(str(root), by_name, "train"))
  return _patterns(by_name[chosen], card)


def _patterns(entry: Mapping[str, Any], card: Path) -> dict[str, list[str]]:
  """Splits and patterns of one configuration's `data_files`, relative to its `data_dir`."""
  given, folder = entry.get("data_files"), entry.get("data_dir") or ""
  require(isinstance(folder, str), f"{card} has data_dir: {folder!r}; name a folder, in quotes.")
  folder = folder.strip("/")
  if given is None:
    return {"train": [f"{folder}/**/*"]} if folder else {}
  found: dict[str, list[str]] = {}
  for split, paths in _records(given):
    for path in paths if isinstance(paths, list) else [paths]:
      require(
        isinstance(path, str) and bool(path.strip("/")),
        f"{card} has {path!r} for a path in data_files; name files, in quotes, like 'data/*.json'.",
      )
      pattern = f"{folder}/{path}" if folder else path
      found.setdefault(split, []).append(pattern.lstrip("/"))
  return found


def _records(given: Any) -> list[tuple[str, Any]]:
  """Each split that `data_files` has with its paths: a list's entries, or a mapping by splits."""
  if isinstance(given, Mapping) and given.keys() != {"split", "path"}:
    return [(str(split), paths) for split, paths in given.items()]
  return [
    (str(entry.get("split", "train")), entry.get("path"))
    if isinstance(entry, Mapping)
    else ("train", entry)
    for entry in (given if isinstance(given, list) else [given])
  ]


def _matches(root: Path, pattern: str) -> list[Path]:
  """The files of a pattern in the README.md."""
  try:
    return list(root.glob(pattern))
  except (ValueError, IndexError, OSError) as error:  # IndexError: of `.`
    raise ConfigError(
      f"{root / 'README.md'} has {pattern[:80]!r} in data_files, which is no pattern of files; "
      "mend it, or remove it."
    ) from error


def _helps(file: Path) -> bool:
  """Whether a file is one that `datasets` keeps beside the data: settings, caches, leftovers."""
  if file.suffix == ".json":
    return file.stem in _HELPERS
  if file.suffix != ".arrow":
    return False
  state = file.parent / "state.json"
  if not state.is_file():
    return file.name.startswith(("cache-", "tmp"))
  try:
    fields = json.loads(state.read_text("utf-8"))
    data = [entry["filename"] for entry in fields["_data_files"]]
  except (ValueError, KeyError, TypeError) as error:
    raise ConfigError(f"{state} is damaged; save the dataset again, or remove it.") from error
  require(
    not fields.get("_indices_files") and not fields.get("_indices_data_files"),
    f"{state.parent} keeps its rows in an order of their own (indices); save it again with "
    "save_to_disk of today's datasets.",
  )
  return file.name not in data
