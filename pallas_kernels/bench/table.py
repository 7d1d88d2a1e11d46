"""Measurements as a Markdown table, with the device, versions, date and commit above it."""

import datetime
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax

from pallas_kernels.bench.devices import Peaks
from pallas_kernels.bench.measure import Row

_COLUMNS = (
  "operation",
  "shape",
  "form",
  "µs",
  "TFLOP/s",
  "of peak",
  "GB/s",
  "of peak",
  "of copy",
  "XLA's time over it",
)


def heading(copy_rate: float) -> str:
  """One line; `copy_rate` is in GB/s."""
  return (
    f"{jax.devices()[0].device_kind}, jax {jax.__version__}, "
    f"{datetime.date.today().isoformat()}, commit {commit()}; copies at {copy_rate:,.0f} GB/s"
  )


def commit() -> str:
  """The repository's commit, with a mark where files differ from it; unknown outside of one."""
  command = [
    "git",
    "-C",
    str(Path(__file__).parent),
    "describe",
    "--always",
    "--dirty",
    "--abbrev=12",
  ]
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return "unknown"
  return done.stdout.strip()


def table(rows: Sequence[Row], peaks: Peaks | None, copy_rate: float) -> str:
  """The Markdown table; shares of peaks are blank where those of the device are unknown."""
  lines: list[tuple[str, ...]] = [_COLUMNS, ("---",) * 3 + ("---:",) * 7]
  lines += [cells(row, peaks, copy_rate) for row in rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(row: Row, peaks: Peaks | None, copy_rate: float) -> tuple[str, ...]:
  """A row's cells. What was not timed has its note in place of the microseconds."""
  names = row.case.operation, row.case.shape, row.form.name
  if row.seconds is None:
    return *names, row.note.replace("|", "/"), *[""] * 6
  work = row.form.work
  flops, bandwidth = work.flops / row.seconds / 1e12, work.bytes / row.seconds / 1e9
  peak = getattr(peaks, work.precision) if peaks else None
  return (
    *names,
    f"{row.seconds * 1e6:,.1f}",
    f"{flops:,.1f}" if work.flops else "",
    _share(flops, peak),
    f"{bandwidth:,.0f}" if work.bytes else "",
    _share(bandwidth, peaks.memory if peaks else None),
    _share(bandwidth, copy_rate),
    f"{row.gain:.2f}" if row.gain else "",
  )


def _share(rate: float, of: float | None) -> str:
  return f"{rate / of:.0%}" if rate and of else ""
