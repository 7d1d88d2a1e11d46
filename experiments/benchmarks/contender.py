"""Contenders of a benchmark, each in a process of its own."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from deepseek_jax.config import ConfigError

OUR_SETTINGS = ("GLIBC_TUNABLES",)  # what experiments/__init__.py sets, and others do not have
Turn = Callable[[int], Any]  # runs that many steps, returns the seconds they took


class Contender:
  """A contender in its own process, so that neither's threads nor memory are the other's."""

  def __init__(self, build: Callable[[Any], Turn], shape: Any, warmup: int):
    """Builds it and runs `warmup` steps; ConfigError if its libraries are not installed.

    What those steps took, compiling included, is kept as `first`.
    """
    context = multiprocessing.get_context("spawn")
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, build, shape, warmup), daemon=True)
    with _environment(without=() if _is_ours(build) else OUR_SETTINGS):
      self._process.start()
    theirs.close()
    self.first = self._answer()

  def __call__(self, steps: int) -> Any:
    """Seconds of `steps` steps."""
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
      self._pipe.send(steps)
    return self._answer()

  def close(self) -> None:
    """Ends the process, whose memory is then free for the next."""
    with contextlib.suppress(BrokenPipeError):
      self._pipe.send(0)
    self._process.join()

  def _answer(self) -> Any:
    try:
      answer = self._pipe.recv()
    except EOFError:
      self._process.join()
      status = self._process.exitcode
      hint = "; there was too little memory" if status == -signal.SIGKILL else ""
      raise RuntimeError(f"a benchmark process ended with status {status}{hint}") from None
    if isinstance(answer, ConfigError):
      raise answer
    return answer


@contextlib.contextmanager
def _environment(without: Iterable[str]) -> Iterator[None]:
  """This process's environment less some variables, while another is started from it."""
  taken = {name: os.environ.pop(name) for name in without if name in os.environ}
  try:
    yield
  finally:
    os.environ |= taken


def _is_ours(build: Callable[[Any], Turn]) -> bool:
  return build.__name__.startswith("deepseek_jax")


def _serve(pipe: Connection, build: Callable[[Any], Turn], shape: Any, warmup: int) -> None:
  """The other process: answers a number of steps with seconds, until it is zero."""
  if _is_ours(build):
    from experiments import program  # not above: it brings JAX, which other contenders do without

    program.run_in_main_thread()
  try:
    turn = build(shape)
    pipe.send(turn(warmup))
    while steps := pipe.recv():
      pipe.send(turn(steps))
  except ConfigError as error:
    pipe.send(error)
  except ModuleNotFoundError as error:
    against = build.__name__.removesuffix("_turn")
    text = f"--against={against} needs the package {error.name}; install it first."
    pipe.send(ConfigError(text))
