"""Measures the kernels beside XLA on the device that is there, or tunes their tiles for it.

  python -m pallas_kernels.bench [--families=gemm,grouped] [--shapes=small|all] [--out=TABLE.md]
  python -m pallas_kernels.bench --tune

A form is timed only where its result is the reference's on the same operands. Rates count what a
shape needs, not what is filled up: see pallas_kernels/bench/work.py. XLA's row is its fastest form.
--tune writes pallas_kernels/configs/DEVICE.json, from which kernels take their tiles.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import app, flags

from pallas_kernels import configs, dispatch
from pallas_kernels.bench import devices, measure, table, timing, tune
from pallas_kernels.bench.cases import Case
from pallas_kernels.bench.families import FAMILIES

_FAMILIES = flags.DEFINE_list("families", list(FAMILIES), f"Some of {', '.join(FAMILIES)}.")
_SHAPES = flags.DEFINE_enum(
  "shapes", None, ["small", "all"], "Small ones or the models'; the latter on GPUs and TPUs."
)
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements of each form.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "File for the Markdown table.")
_TUNE = flags.DEFINE_bool("tune", False, "Search for the device's tiles instead.")

_COPIED = {False: 1 << 26, True: 1 << 30}  # bytes, on a CPU and on an accelerator
NO_KERNEL = "No kernel was timed: this package has none for this device."


def main(_: list[str]) -> None:
  """Runs what the flags say."""
  unknown = [name for name in _FAMILIES.value if name not in FAMILIES]
  if unknown:
    raise app.UsageError(f"--families={','.join(unknown)}: there are {', '.join(FAMILIES)}.")
  kind = dispatch.device_kernel()
  if _TUNE.value:
    _tune(kind)
  else:
    _measure(kind)


def _measure(kind: str) -> None:
  fast = jax.default_backend() != "cpu"
  clock = timing.Clock(_REPEATS.value, least=0.02 if fast else 0.002)
  copy_rate = devices.copy_rate(clock, _COPIED[fast])
  caches = timing.CACHES if fast else 1
  rows: list[measure.Row] = []
  for case in _cases():
    print(f"{case.operation}, {case.shape}", file=sys.stderr, flush=True)
    rows += measure.measure(case, kind, clock, caches)
  peaks = devices.PEAKS.get(configs.device_name(jax.devices()[0].device_kind))
  parts = [table.heading(copy_rate), table.table(rows, peaks, copy_rate)]
  if not any(row.form.name == "kernel" and row.seconds for row in rows):
    parts.append(NO_KERNEL if kind == "xla" else "No kernel was timed: the table says why.")
  text = "\n\n".join(parts) + "\n"
  print(text, end="")
  if _OUT.value:
    Path(_OUT.value).write_text(text, encoding="utf-8")


def _tune(kind: str) -> None:
  if kind == "xla":
    raise app.UsageError("--tune needs a device that this package has kernels for.")
  if _OUT.value:
    raise app.UsageError("--out is for the table, which --tune does not make.")
  name = configs.device_name(jax.devices()[0].device_kind)
  written = [
    configs.write(name, {question: tiles})  # each at once: a search takes long and may be cut off
    for question, tiles in tune.tune(_cases(), kind, timing.Clock(_REPEATS.value))
  ]
  print(f"{len(written)} answers in {written[0]}" if written else "Nothing was found to write.")


def _cases() -> Iterator[Case]:
  small = _SHAPES.value == "small" or (_SHAPES.value is None and jax.default_backend() == "cpu")
  for name in _FAMILIES.value:
    yield from FAMILIES[name](small)


if __name__ == "__main__":
  app.run(main)
