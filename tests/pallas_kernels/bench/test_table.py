"""The Markdown table."""

import jax
import pytest

from pallas_kernels.bench import table
from pallas_kernels.bench.cases import ROUNDED, Case
from pallas_kernels.bench.devices import PEAKS
from pallas_kernels.bench.measure import Row
from pallas_kernels.bench.work import Work

CASE = Case("forward", "o: 1 x 2 x 3", lambda: None, lambda key: {}, Work(10**12, 2 * 10**9))
FORM = CASE.kernel("mgpu")


def test_rates_and_shares_are_those_of_the_time():
  # 1 TFLOP and 2 GB in 2 ms: 500 TFLOP/s of 1979, 1000 GB/s of 3350, half of a copy's 2000.
  cells = table.cells(Row(CASE, FORM, 2e-3, gain=1.25), PEAKS["h100"], 2000.0)
  assert cells == (
    "forward", "o: 1 x 2 x 3", "kernel", "2,000.0", "500.0", "25%", "1,000", "30%", "50%", "1.25",
  )  # fmt: skip


def test_xlas_form_is_held_against_the_peak_of_bfloat16():
  (form,) = CASE.xla()
  cells = table.cells(Row(CASE, form, 2e-3), PEAKS["h100"], 2000.0)
  assert cells[2:6] == ("XLA", "2,000.0", "500.0", "51%") and cells[-1] == ""


def test_what_is_not_known_is_blank():
  cells = table.cells(Row(CASE, FORM, 2e-3), None, 2000.0)
  assert cells[4:] == ("500.0", "", "1,000", "", "50%", "")
  case = Case("routing", "", CASE.call, CASE.make, Work(0, 2 * 10**9), ROUNDED)
  assert table.cells(Row(case, case.kernel("tpu"), 2e-3), PEAKS["v5e"], 1e3)[4:6] == ("", "")


def test_what_was_not_timed_has_its_note():
  cells = table.cells(Row(CASE, FORM, note="wrong: a|b"), PEAKS["h100"], 2000.0)
  assert cells == ("forward", "o: 1 x 2 x 3", "kernel", "wrong: a/b", *[""] * 6)


def test_it_is_markdown_with_as_many_cells_in_every_line():
  text = table.table([Row(CASE, FORM, 1.0), Row(CASE, FORM, note="failed")], None, 1.0)
  lines = text.split("\n")
  assert len(lines) == 4 and all(line.startswith("| ") and line.endswith(" |") for line in lines)
  assert {line.count("|") for line in lines} == {11}


def test_the_heading_says_where_it_was_measured(monkeypatch):
  monkeypatch.setattr(table, "commit", lambda: "abc123")
  heading = table.heading(1234.5)
  for part in (jax.devices()[0].device_kind, f"jax {jax.__version__}", "commit abc123", "1,234 GB"):
    assert part in heading


@pytest.mark.parametrize("error", (OSError, table.subprocess.CalledProcessError(128, "git")))
def test_without_a_repository_the_commit_is_unknown(monkeypatch, error):
  def fails(*_, **__):
    raise error

  monkeypatch.setattr(table.subprocess, "run", fails)
  assert table.commit() == "unknown"
