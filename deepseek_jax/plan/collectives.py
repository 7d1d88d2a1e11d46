"""What a compiled program sends between devices: its collectives, how often each runs, its bytes.

Read from the text of an optimised HLO module. A collective in the body of a loop runs as often as
the loop does: by what the compiler says (`known_trip_count`), or by the number below which a
counter from 0 is to stay. A loop that ends by what it finds counts as one turn.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
)
_ITEM = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
         "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
_OPENING = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(
  rf"= (?P<shape>\(.*?\)|\S+) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<operands>[^)]*)\)"
)
_CALLS = re.compile(
  r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"^\s*ROOT .* compare\([^,]*, (?:s32\[\]\S* )?%?([\w.\-]+)\), direction=LT")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]*)\})")

_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_MESH_PART = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One in a program's text."""

  kind: str
  shape: str  # of what a device has afterwards
  size: int  # bytes of the larger of what goes in and what comes out, on a device
  group: int  # devices that take part
  times: int  # it runs in a step
  line: str

  @property
  def sent(self) -> float:
    """Bytes that a device sends in a step, where parts go around a ring or straight to peers."""
    if self.kind == "collective-permute":
      return float(self.size * self.times)
    passes = 2 if self.kind == "all-reduce" else 1
    return passes * self.size * self.times * (self.group - 1) / self.group


def collectives(text: str, devices: int) -> list[Collective]:
  """Those of an optimised module's text, in its order; `devices` is how many it runs on."""
  times, found = _times(text), []
  for name, line in _lines(text):
    operation = _OPERATION.search(line)
    if operation is None or not times(name):
      continue
    kind, shape = operation["kind"], operation["shape"]
    sizes = [_bytes(*array) for array in _ARRAY.findall(shape)]
    # What starts and goes on beside other work has what it takes beside what it gives.
    size = max(sizes) if operation["start"] and kind != "all-reduce" else sum(sizes)
    group = _group(line, devices)
    if kind == "reduce-scatter" and not operation["start"]:
      size *= group
    found.append(Collective(kind, shape, size, group, times(name), line.strip()))
  return found


def _lines(text: str) -> Iterator[tuple[str, str]]:
  """Every line with the name of the computation that it is in."""
  name = ""
  for line in text.splitlines():
    opening = _OPENING.match(line)
    if opening:
      name = "ENTRY" if line.startswith("ENTRY") else opening[1]
    else:
      yield name, line


def _times(text: str) -> Callable[[str], int]:
  """How often a computation runs, by name."""
  callers, bounds = collections.defaultdict(list), _bounds(text)
  for name, line in _lines(text):
    loop, condition = _TIMES.search(line), _CONDITION.search(line)
    count = int(loop[1]) if loop else bounds.get(condition[1], 1) if condition else 1
    for called in _CALLS.findall(line):
      callers[called].append((name, count))
    for branches in _BRANCHES.findall(line):
      for called in branches.split(","):
        callers[called.strip(" %")].append((name, 1))

  @functools.cache
  def times(name: str) -> int:
    return 1 if name == "ENTRY" else sum(n * times(caller) for caller, n in callers[name])

  return times


def _bounds(text: str) -> dict[str, int]:
  """The n of each computation that says whether a counter is still below n, by name."""
  constants: dict[tuple[str, str], int] = {}
  found: dict[str, int] = {}
  for name, line in _lines(text):
    if constant := _CONSTANT.search(line):
      constants[name, constant[1]] = int(constant[2])
    elif (below := _BELOW.search(line)) and (name, below[1]) in constants:
      found[name] = constants[name, below[1]]
  return found


def _bytes(kind: str, sides: str) -> int:
  return _ITEM.get(kind, 1) * math.prod(int(side) for side in sides.split(",") if side)


def _group(line: str, devices: int) -> int:
  """How many devices take part together, in whichever of its forms the compiler says it."""
  if mesh := _MESH_GROUPS.search(line):
    sizes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh[1])}
    # Of an axis, or of a part of it, whose size then stands beside it.
    parts = _MESH_PART.findall(mesh[2])
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
  groups = _GROUPS.search(line)
  if groups is None:
    return devices
  return int(groups[2]) if groups[2] else groups[3].count(",") + 1
