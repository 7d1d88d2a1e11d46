"""What the programs share: their flags, and how they end.

0    done
1    training diverged: a loss that is no number, or a spike; or a preflight that found what is red
2    bad input, or a full disk; one sentence on standard error, nothing half-written
3    of a run over several processes another was lost or hangs; the same command goes on, also over
     fewer, from the newest checkpoint
143  SIGTERM: the state was saved, and the same command goes on from there

Of several processes the first speaks for all. Another speaks where the first does not end as it
does: by an error of its own, or left alone.
"""

import contextlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from deepseek_jax import compilation
from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import group, heartbeat
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.code.sandbox import allow_unsafe_execution
from deepseek_jax.train.checkpoint import disk_is_full
from deepseek_jax.train.loop import Terminated, TrainingDiverged

DIVERGED, BAD_INPUT, TERMINATED = 1, 2, 143
FAULT = 1  # of ours, or of a library's; with a traceback
RED = 1  # a preflight's
_EXAMPLES = {"config": "configs/NAME.py", "workdir": "DIR"}
flags.DEFINE_string(
  "compilation_cache",
  None,
  "The folder in which compiled programs are kept, `off` for none; by default below ~/.cache, or "
  "what JAX_COMPILATION_CACHE_DIR says.",
)


def config_flag() -> None:
  """Defines --config."""
  for kind, parser in ((float, flags.FloatParser()), (int, flags.IntegerParser())):
    config_flags.register_flag_parser_for_type(kind, _OrNone(parser))
  config_flags.DEFINE_config_file("config", None, "A file with get_config(); see configs/.")


def training_flags() -> None:
  """Defines --config, --workdir and --profile_steps."""
  config_flag()
  flags.DEFINE_string("workdir", None, "Where the run is kept; a run found there goes on.")
  flags.DEFINE_string("profile_steps", "", "first-last: trace these steps into the workdir.")


def process_flags() -> None:
  """Defines what makes several processes one run; for jobs that run over several."""
  patience = heartbeat.Patience()
  flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of the first of several processes, on all of them; auto: as the scheduler says.",
  )
  flags.DEFINE_integer("processes", None, "How many processes there are.")
  flags.DEFINE_integer("process", None, "Which this is, counted from 0; that one writes all files.")
  flags.DEFINE_integer("meeting_seconds", patience.meeting, "To wait until all are there.")
  flags.DEFINE_integer("silence_seconds", patience.silence, "Without a sign of life: it is lost.")
  flags.DEFINE_float("hang_seconds", patience.hang, "At one place, waited for: it hangs.")
  flags.DEFINE_float("slow_seconds", patience.slow, "The same, from which it is told as slow.")


def verifier_flags() -> None:
  """Defines --allow_unsafe_execution, for programs that judge what a model wrote."""
  flags.DEFINE_bool(
    "allow_unsafe_execution",
    False,
    "Run a model's programs (task code:FILE.jsonl) unconfined where there is no sandbox for them: "
    "they can do whatever this user can.",
  )


def preflight_flags() -> None:
  """Defines --preflight, and what goes with it."""
  flags.DEFINE_bool("preflight", False, "Train nothing; say what would go wrong, and end.")
  flags.DEFINE_integer("preflight_prompts", None, "Problems to try; by default two iterations'.")
  flags.DEFINE_string("preflight_out", None, "A file for the preflight's figures, as JSON.")


def refuse_preflight_flags() -> None:
  """ConfigError where one is given without --preflight."""
  for name in flags.FLAGS:
    require(
      not name.startswith("preflight_") or flags.FLAGS[name].value is None,
      f"--{name} is for --preflight, which is not given; add it.",
    )


def output_file(flag: str) -> Path | None:
  """The file of a flag, if it is given; refused before minutes are spent on what it is to hold."""
  given = flags.FLAGS[flag].value
  if not given:
    return None
  path = local_path(given)
  require(not path.is_dir(), f"--{flag} {path} is a directory; name a file.")
  require(path.parent.is_dir(), f"--{flag} {path} lies in no directory; make it first.")
  return path


def training_config(needed: Sequence[str] = ("config", "workdir")) -> tuple[dict, str]:
  """The values of --config, with --profile_steps in its place, and of --workdir.

  ConfigError where one of those `needed` is missing.
  """
  values = flags.FLAGS
  for name in needed:
    if not values[name].value:
      given = " ".join(f"--{n}={_EXAMPLES[n]}" for n in needed)
      raise ConfigError(f"--{name} is missing; give {given}.")
  config = config_values()
  if values.profile_steps:
    config.setdefault("train", {})["profile_steps"] = values.profile_steps
  return config, values.workdir


def config_values() -> dict[str, Any]:
  """The values of --config, which is given; ConfigError where it holds none."""
  try:
    return flags.FLAGS.config.to_dict()
  except OSError as error:  # the file is missing; ml_collections says so only here
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    raise ConfigError(
      f"--config {path} cannot be read; name a file like configs/NAME.py."
    ) from error
  except AttributeError as error:
    raise ConfigError("--config has a get_config() that returns no ConfigDict.") from error


class _OrNone(flags.ArgumentParser):
  """A parser of numbers that can be told None, which not every field takes."""

  def __init__(self, parser: flags.ArgumentParser):
    super().__init__()
    self._parser = parser

  def parse(self, argument: Any) -> Any:
    """The number or None."""
    return None if argument in ("None", "none", "null") else self._parser.parse(argument)

  def flag_type(self) -> str:
    """What help calls it."""
    return self._parser.flag_type()


def run(main: Callable[[], None]) -> None:
  """Parses the command line, runs `main`, and turns what ends it into an exit status."""
  logging.set_verbosity(logging.FATAL)  # libraries print the traceback of what they then raise
  app.run(lambda _: _guarded(main), flags_parser=_parse)


def run_in_main_thread() -> None:
  """Has a CPU's programs run in the thread that calls them, so that their memory is of its heap.

  Without effect once JAX has looked for its devices.
  """
  jax.config.update("jax_cpu_enable_async_dispatch", False)


def _guarded(main: Callable[[], None]) -> None:
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")  # what a console's encoding has not is shown as ?
  run_in_main_thread()
  if "allow_unsafe_execution" in flags.FLAGS and flags.FLAGS.allow_unsafe_execution:
    allow_unsafe_execution()
  cache = flags.FLAGS.compilation_cache
  if cache == "off":
    jax.config.update("jax_enable_compilation_cache", False)
  else:
    compilation.use_cache(cache or None)
  compilation.watch().tell()
  try:
    _ended(main)
  except Exception:  # a fault of ours, or of a library's; or another process is lost
    heartbeat.suspect()
    if group.several():
      group.fail(traceback.format_exc(), FAULT)
    raise


def _ended(main: Callable[[], None]) -> None:
  """Runs `main`, one of several processes where the flags say so; what users can mend is told."""
  try:
    _join()
    with _silence() if not group.first() else contextlib.nullcontext():
      main()
    group.part()
  except ConfigError as error:
    _exit(error, BAD_INPUT)
  except OSError as error:
    if not disk_is_full(error):
      if error.filename is None:
        raise
      _exit(f"{error.filename} cannot be used ({error.strerror}); name another.", BAD_INPUT)
    _exit(f"the disk is full ({error}); free some space and run the same command again.", BAD_INPUT)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    told = str(error).splitlines()[0].rstrip(".")
    _exit(f"there is not enough memory ({told}); make the batch or the length less.", BAD_INPUT)
  except TrainingDiverged as error:
    _exit(error, DIVERGED)
  except Terminated as error:
    _exit(error, TERMINATED)


def _join() -> None:
  """Makes this process one of several, where the flags say so."""
  values = flags.FLAGS
  if "coordinator" not in values:
    return
  given = [name for name in ("processes", "process") if values[name].value is not None]
  require(
    not given or values.coordinator is not None,
    f"--{' and --'.join(given)} are of several processes, but --coordinator is not given; add it.",
  )
  if values.coordinator is not None:
    patience = heartbeat.Patience(
      meeting=values.meeting_seconds,
      silence=values.silence_seconds,
      hang=values.hang_seconds,
      slow=values.slow_seconds,
    )
    group.join(values.coordinator, values.processes, values.process, patience)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Keeps what another process says for all from being said again."""
  with (
    open(os.devnull, "w") as nowhere,
    contextlib.redirect_stdout(nowhere),
    contextlib.redirect_stderr(nowhere),
  ):
    yield


def _parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """absl's parser, with its complaints and those of ml_collections as one sentence."""
  try:
    rest = values(argv)
    if len(rest) > 1:
      raise flags.Error(f"{rest[1]!r} is no flag; flags begin with two dashes.")
  except flags.Error as error:
    told = " ".join(str(error).split())
    if "Traceback" in told:  # of a config file, whose own last words say enough
      told = f"--config cannot be read: {told.rpartition('Error: ')[2]}"
    _exit(told, BAD_INPUT)
  except Exception as error:  # whatever a config file, which is a program, may end with
    _exit(_unknown_field(error, argv) or f"--config cannot be read: {_told(error)}", BAD_INPUT)
  return rest


def _unknown_field(error: Exception, argv: Sequence[str]) -> str:
  """The sentence for a flag that names a field the config has not; "" for any other error."""
  names = re.findall(r"\w+", str(error))
  flagged = [arg.partition("=")[0].lstrip("-").split(".") for arg in argv]
  places = [parts[: parts.index(names[0])] for parts in flagged if names and names[0] in parts]
  if not places or not isinstance(error, (AttributeError, KeyError)):
    return ""
  hint = f"; did you mean {names[4]!r}" if len(names) > 4 and "mean" in names else ""
  return f"{'.'.join(places[0])} has no field {names[0]!r}{hint}."


def _told(error: Exception) -> str:
  """What a config file ended with, in one line, and where."""
  frame = traceback.extract_tb(error.__traceback__)[-1]
  if isinstance(error, SyntaxError):
    return f"it is no Python ({error.msg}, in {error.filename}, line {error.lineno})."
  outside = "ml_collections" in frame.filename
  if outside and isinstance(error, OSError):  # in ml_collections' words, which are many
    return "there is no such file; name one like configs/NAME.py."
  if outside:
    return "it has no function get_config() that returns a ConfigDict."
  said = " ".join(str(error).split())
  return f"{type(error).__name__}: {said} (in {frame.filename}, line {frame.lineno})."


def _exit(message: object, status: int) -> None:
  group.fail(str(message), status)
