"""The ledger as tables for a terminal: work and seconds, what was learnt, hours and their price."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.recipe.ledger import PARTS, seconds_by_part, sums

_SHOWN = 12  # digits of a hash


def costs_text(entries: Sequence[Mapping[str, Any]]) -> str:
  """Stages down, and the run's total below them; then where the samples to learn came from."""
  rows = [*entries, sums(entries)]
  names = [*PARTS, "rest", "total"]
  priced = all("cost" in row for row in rows)
  head = (
    f"{'stage':<13}{'steps':>6}{'trained':>13}{'sampled':>13}{'TFLOP':>11}{'programs':>9}"
    + "".join(f"{name:>11}" for name in names)
    + f"{'device-hours':>14}"
    + (f"{'cost':>10}" if priced else "")
  )
  lines = [
    f"{row['stage']:<13}{row['steps']:>6}{row['tokens_trained']:>13,}{row['tokens_sampled']:>13,}"
    f"{(row['train_flops'] + row['sample_flops']) / 1e12:>11.2f}{row['programs']:>9}"
    + "".join(f"{value:>11.1f}" for value in seconds_by_part([row]).values())
    + f"{row['device_hours']:>14.4f}"
    + (f"{row['cost']:>10.2f}" if priced else "")
    for row in rows
  ]
  return "\n\n".join(filter(None, ["\n".join([head, *lines]), _inputs_text(entries)]))


def page_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The entries and their total as a page's table shows them: mappings as text, hashes cut."""
  return [{name: _cell(value) for name, value in row.items()} for row in [*entries, sums(entries)]]


def _cell(value: Any) -> Any:
  if isinstance(value, Mapping):
    return ", ".join(f"{n} {v[:_SHOWN] if isinstance(v, str) else v}" for n, v in value.items())
  return value[:_SHOWN] if isinstance(value, str) and len(value) == 64 else value


def _inputs_text(entries: Sequence[Mapping[str, Any]]) -> str:
  """What each stage that learns answers was given: its yield, counts and hashes."""
  lines = []
  for entry in entries:
    told = [text for text in (_yield(entry["selection"]), _learnt(entry), _hashes(entry)) if text]
    names = [entry["stage"], *[""] * len(told)]
    lines += [f"{name:<13}{text}" for name, text in zip(names, told, strict=False)]
  return "\n".join(["what stages were given", *lines]) if lines else ""


def _yield(selection: Mapping[str, int] | None) -> str:
  if not selection:
    return ""
  told = ", ".join(f"{n} {v}" for n, v in selection.items() if v and n != "kept")
  return f"kept {selection['kept']}, {selection['kept'] / selection['sampled']:.1%} ({told})"


def _learnt(entry: Mapping[str, Any]) -> str:
  counts = ", ".join(f"{name} {value}" for name, value in (entry["learnt"] or {}).items() if value)
  return f"learnt: {counts}" if counts else ""


def _hashes(entry: Mapping[str, Any]) -> str:
  hashes = ", ".join(f"{n} {v[:_SHOWN]}" for n, v in entry["inputs"].items())
  return f"from: {hashes}" if hashes else ""
