"""A plan as a page: the memory as a picture, and its tables."""

import html
from collections.abc import Sequence
from pathlib import Path

from deepseek_jax.evaluate import drawing, page
from deepseek_jax.plan.estimate import Plan
from deepseek_jax.plan.memory import readable
from deepseek_jax.plan.tables import Table, heading
from deepseek_jax.train.workdir import write_atomically

_WIDTH, _LEFT, _RIGHT, _ROW = 420, 125, 72, 24  # of the picture, in its own units
_DARK = "@media (prefers-color-scheme: dark)"
_STYLE = f"""
:root {{ color-scheme: light dark; }}
figure img {{ max-width: 600px; }}
h3 {{ font-size: 14px; margin: 1.6em 0 0; }} table {{ margin-top: .3em; }}
{_DARK} {{
  body {{ color: #ddd; background: #16181c; }}
  figcaption {{ color: #aaa; }}
  th, td {{ border-color: #33363c; }}
}}
"""


def write_plan_page(file: Path, plan: Plan, tables: Sequence[Table]) -> None:
  """Writes a page that needs nothing beside it."""
  shown = [_table(table) for table in tables]
  file.parent.mkdir(parents=True, exist_ok=True)
  parts = [f"<p>{page.text(heading(plan))}</p>", _picture(plan), *shown]
  write_atomically(file, page.document(f"Plan of {plan.workload.name}", parts, _STYLE))


def _table(table: Table) -> str:
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  return f"<h3>{page.text(table.title)}</h3>{page.table(rows)}"


def _picture(plan: Plan) -> str:
  limit = plan.topology.device.memory
  note = f"Memory of a device: {readable(int(plan.footprint.total))} of {readable(limit)}" + (
    "" if plan.fits else ", which does not suffice"
  )
  return page.picture(memory_bars(plan), note)


def memory_bars(plan: Plan) -> str:
  """SVG: all kinds in one bar beside what the device has, and a bar for each of them."""
  kinds = {kind: size for kind, size in plan.footprint.kinds.items() if size}
  limit, total = plan.topology.device.memory, plan.footprint.total
  scale = (_WIDTH - _LEFT - _RIGHT) / max(limit, total)
  colours = {kind: drawing.COLOURS[i % len(drawing.COLOURS)] for i, kind in enumerate(kinds)}
  pieces, at = [], float(_LEFT)
  for kind, size in kinds.items():
    pieces.append(_bar(at, 0, size * scale, colours[kind]))
    at += size * scale
  pieces += [_label("all", 0), _value(readable(int(total)), 0)]
  for row, (kind, size) in enumerate(kinds.items(), start=1):
    pieces.append(_bar(_LEFT, row, max(1.0, size * scale), colours[kind]))
    pieces += [_label(kind, row), _value(readable(int(size)), row)]
  edge, height = _LEFT + limit * scale, _ROW * (len(kinds) + 1)
  pieces.append(f'<line x1="{edge:.1f}" x2="{edge:.1f}" y1="0" y2="{height}"/>')
  style = (
    "text{font:13px system-ui,sans-serif;fill:#222}"
    "line{stroke:#b5473f;stroke-width:2;stroke-dasharray:4 3}"
    f"{_DARK}{{text{{fill:#ddd}}}}"
  )
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">'
    f"<style>{style}</style>{''.join(pieces)}</svg>"
  )


def _bar(x: float, row: int, width: float, colour: str) -> str:
  y = row * _ROW + 4
  return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 8}" fill="{colour}"/>'


def _label(text: str, row: int) -> str:
  y = row * _ROW + 18
  return f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{html.escape(text)}</text>'


def _value(text: str, row: int) -> str:
  return f'<text x="{_WIDTH}" y="{row * _ROW + 18}" text-anchor="end">{html.escape(text)}</text>'
