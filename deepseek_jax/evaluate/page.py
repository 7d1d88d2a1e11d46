"""The pieces of a self-contained page: whatever text comes in, it stays text."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any


def document(title: str, parts: Sequence[str], style: str = "") -> str:
  """A page of the parts that are not empty. It loads nothing and runs nothing."""
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  head = (
    f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    f"<title>{text(title)}</title><style>{_STYLE}{style}</style>"
  )
  body = "\n".join([f"<h1>{text(title)}</h1>", *filter(None, parts)])
  return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def text(value: Any) -> str:
  """Anything as text that no reader takes for markup."""
  return html.escape(str(value))


def facts(named: Mapping[str, Any]) -> str:
  """Names and values in one line each."""
  rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in named.items())
  return f"<dl>{rows}</dl>" if rows else ""


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
  """A table of any rows; columns in the order in which they first occur."""
  columns = list(dict.fromkeys(name for row in rows for name in row))
  if not columns:
    return ""
  names = "".join(f"<th>{text(c)}</th>" for c in columns)
  body = "".join(
    "<tr>" + "".join(f"<td>{text(number(row.get(c)))}</td>" for c in columns) + "</tr>"
    for row in rows
  )
  head = f"<caption>{text(caption)}</caption>" if caption else ""
  return f"<table>{head}<tr>{names}</tr>{body}</table>"


def number(value: Any) -> str:
  """Four digits of a fraction, all of a whole number; other values as they are."""
  if value is None:
    return "–"
  if isinstance(value, float):
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
  return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def mark(correct: float) -> str:
  """Right, wrong, or how much of it is right."""
  return "✓" if correct == 1 else "✗" if correct == 0 else f"{correct:.2f}"


def picture(svg: str, note: str) -> str:
  """An image with its data inside: as a document of its own its ids cannot clash with others."""
  data = base64.b64encode(svg.encode()).decode()
  caption = f"<figcaption>{text(note)}</figcaption>" if note else ""
  image = f'<img alt="{text(note or "curves")}" src="data:image/svg+xml;base64,{data}">'
  return f"<figure>{image}{caption}</figure>"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
  color: #222; }
h1 { margin-bottom: .2em; } h2 { margin-top: 2em; border-bottom: 1px solid #ddd; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1em 1em; color: #555; }
dt { font-weight: 600; } dd { margin: 0; }
figure { margin: 1em 0; } figure img { width: 100%; } figcaption { color: #555; font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block;
  overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding: .4em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #eee;
  vertical-align: top; white-space: nowrap; }
tr > th:first-child, tr > td:first-child { text-align: left; }
td small { display: block; color: #777; }
.thoughts .thought { text-align: left; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12.5px/1.5 ui-monospace, monospace; }
.thoughts .mark { text-align: center; }
"""
