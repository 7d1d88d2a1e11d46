"""The search for tiles: a few candidates for each question that a kernel asks, the fastest kept."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from pallas_kernels import configs
from pallas_kernels.bench.cases import Case
from pallas_kernels.bench.measure import failure, operand_sets, problems
from pallas_kernels.bench.timing import CACHES, Program, Timer, in_turn
from pallas_kernels.configs import Asked
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.gemm import mgpu as gemm_mgpu
from pallas_kernels.gemm import tpu as gemm_tpu
from pallas_kernels.grouped import mgpu as grouped_mgpu
from pallas_kernels.grouped import tpu as grouped_tpu
from pallas_kernels.mla import mgpu as mla_mgpu
from pallas_kernels.mla import tpu as mla_tpu

# Tried besides a kernel's default, by the type of its tiles. Heights on Hopper divide 128, so that
# what was tuned with some tokens of a class fits all of them.
CANDIDATES: dict[type, tuple[dict[str, int], ...]] = {
  gemm_mgpu.Tiles: (
    {"stages": 3},
    {"stages": 5},
    {"stages": 5, "snake_width": 4},
    {"stages": 5, "snake_width": 16},
    {"stages": 5, "snake_axis": 0},
    {"columns": 64, "stages": 6},
    {"warpgroups": 1, "stages": 6},
  ),
  gemm_tpu.Tiles: (
    {"rows": 256, "columns": 256},
    {"rows": 1024},
    {"columns": 1024},
    {"depth": 512},
    {"depth": 2048},
    {"rows": 1024, "columns": 1024, "depth": 512},
  ),
  grouped_mgpu.Tiles: (
    {"stages": 3},
    {"stages": 5},
    {"stages": 6},
    {"stages": 5, "snake": 4},
    {"stages": 5, "snake": 16},
  ),
  grouped_tpu.Tiles: ({"n": 256}, {"n": 1024}, {"k": 1024}, {"n": 1024, "k": 1024}),
  mla_mgpu.Tiles: tuple({"parts": parts} for parts in (1, 2, 4, 8, 16, 32, 64, 128)),
  mla_tpu.Tiles: tuple({"block": block} for block in (128, 256, 1024, 2048)),
}


@dataclasses.dataclass(frozen=True)
class Found:
  """What the search for one question came to.

  Attributes:
    best: the fastest tiles, None where none gave a right result.
    seconds: of one call with them and with the default, None where that gave none.
    tried: candidates, the default among them.
    skipped: those that are not supported, did not compile or gave wrong results.
  """

  question: Asked
  best: Any | None
  seconds: float | None
  default_seconds: float | None
  tried: int
  skipped: int


def tune(
  cases: Iterable[Case],
  kind: str,
  timer: Timer,
  caches: int = CACHES,
  say: Callable[[str], None] = print,
) -> Iterator[tuple[Asked, Any]]:
  """The fastest tiles for each question of the cases' kernels, as soon as they are found.

  Cases whose kernels ask nothing, or more than one question, are passed over, and so are those that
  fail as a whole.
  """
  answered: set[Asked] = set()
  for case in cases:
    question = _question(case, kind)
    if question is None or question in answered:
      continue
    try:
      found = search(case, kind, question, timer, caches)
    except Exception as error:  # as for want of memory: other cases are still worth having
      say(f"{case.operation}, {case.shape}: {failure(error)}")
      continue
    say(_line(case, found))
    if found.best is not None:
      answered.add(question)
      yield question, found.best


def search(case: Case, kind: str, question: Asked, timer: Timer, caches: int = CACHES) -> Found:
  """Tries a question's candidates on a case: right results only, each timed in turn with others."""
  tried = candidates(question.default)
  sets = operand_sets(case, caches)
  form = case.kernel(kind)
  programs: dict[str, Program] = {}
  for tiles in tried:
    with configs.trying(question, tiles):
      program = in_turn(form.run, [operands[form.group] for operands in sets])
      if not problems(case, [form], sets[0])[0] and _compiles(program):
        programs[str(tiles)] = program
  seconds = {name: each / len(sets) for name, each in timer(programs).items()}
  by_name = {str(tiles): tiles for tiles in tried}
  fastest = min(seconds, key=seconds.__getitem__, default=None)
  return Found(
    question,
    by_name[fastest] if fastest else None,
    seconds[fastest] if fastest else None,
    seconds.get(str(question.default)),
    len(tried),
    len(tried) - len(programs),
  )


def candidates(default: Any) -> list[Any]:
  """The default and what is tried besides it."""
  changed = CANDIDATES.get(type(default), ())
  found = [default, *(dataclasses.replace(default, **fields) for fields in changed)]
  return list(dict.fromkeys(found))


def _question(case: Case, kind: str) -> Asked | None:
  """What the case's kernel asks for, if it asks once."""
  if kind not in case.kinds:
    return None
  operands = jax.eval_shape(case.make, jax.random.key(0))["own"]
  with configs.asked() as asked:
    try:
      jax.eval_shape(case.kernel(kind).run, *operands)
    except Unsupported:
      return None
  questions = set(asked)
  return questions.pop() if len(questions) == 1 else None


def _compiles(program: Program) -> bool:
  """Traces, compiles and runs a program, so that it stays as it is when it is timed."""
  try:
    jax.block_until_ready(program())
  except Exception:  # of a compiler or a device
    return False
  return True


def _line(case: Case, found: Found) -> str:
  skipped = f"{found.skipped} of {found.tried} candidates skipped"
  if found.seconds is None:
    return f"{case.operation}, {case.shape}: none is right, {skipped}"
  default = f", default {found.default_seconds * 1e6:.1f} µs" if found.default_seconds else ""
  best = f"{found.best} {found.seconds * 1e6:.1f} µs"
  return f"{case.operation}, {case.shape}: {best}{default}, {skipped}"
