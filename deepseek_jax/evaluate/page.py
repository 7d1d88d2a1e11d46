"""A self-contained page of HTML: its shell, its style, and the pieces that pages share."""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any


def page(title: str, parts: Iterable[str], style: str = "") -> str:
  """The page of parts that are HTML already; empty ones leave nothing. It loads nothing."""
  head = f'<meta charset="utf-8"><title>{text(title)}</title><style>{_STYLE}{style}</style>'
  body = "\n".join([f"<h1>{text(title)}</h1>", *filter(None, parts)])
  return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def text(value: Any) -> str:
  """The value as text that holds no markup."""
  return html.escape(str(value))


def facts(named: Mapping[str, Any]) -> str:
  """Names and values in one line each."""
  rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in named.items())
  return f"<dl>{rows}</dl>" if rows else ""


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
