"""The page of a study: thoughts with their turns marked, tables and pictures, against the base."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.evaluate import charts
from deepseek_jax.evaluate.figures import Figure, format_figure
from deepseek_jax.evaluate.page import document, facts, picture, text
from deepseek_jax.evaluate.reflection import measures
from deepseek_jax.evaluate.reflection.counterfactual import ARMS, Branch
from deepseek_jax.evaluate.reflection.study import Subject
from deepseek_jax.evaluate.reflection.turns import Trace
from deepseek_jax.evaluate.reflection.words import REFLECTION

_SHOWN = 4  # problems, of each choice
_PANELS = ("pass@1", "reflection_per_1000", "rechecks", "changed")
_ARMS = {
  "strip": "cut before the first reflection word behind a candidate, the answer opened there",
  "unchanged": "cut behind that word and gone on with: a control",
  "insert": "a word to wait in place of the thought's end",
}
_BEHIND = (" behind a right answer", " behind a wrong answer")
_MARKS = (
  "<p>Marked: answers that a thought arrives at, <span class=right>right</span> or "
  "<span class=wrong>wrong</span>, and <mark>reflection words</mark>. {} </p>"
)


def render(
  title: str, named: Mapping[str, Any], subjects: Sequence[Subject], figures: Sequence[Figure]
) -> str:
  """The page; of two subjects the first is the base."""
  parts = [
    facts(named),
    _rates(subjects, figures),
    _by_word(subjects),
    _by_length(subjects),
    _counterfactual(figures),
    _thoughts(subjects),
    _branched(subjects),
  ]
  return document(title, parts, _STYLE)


def marked(trace: Trace) -> str:
  """A completion as HTML: candidates by verdict, reflection words highlighted."""
  verdicts = zip(trace.candidates, trace.right, strict=True)
  spans = [(c.start, c.end, "right" if right else "wrong") for c, right in verdicts]
  places = [*(s[:2] for s in spans), *((w.start, w.end) for w in trace.words)]
  edges = sorted({0, len(trace.text), *(x for place in places for x in place)})
  parts = []
  for start, end in zip(edges, edges[1:]):
    kind = next((name for a, b, name in spans if a <= start and end <= b), "")
    word = any(w.start <= start and end <= w.end for w in trace.words)
    piece = text(trace.text[start:end])
    piece = f"<mark>{piece}</mark>" if word else piece
    parts.append(f"<span class={kind}>{piece}</span>" if kind else piece)
  return "".join(parts) or "<i>nothing</i>"


def _rates(subjects: Sequence[Subject], figures: Sequence[Figure]) -> str:
  """Every measure of every model, and what sets the last apart from the base."""
  found = {(f["stage"], f["metric"]): f for f in figures}
  stages = [subject.stage for subject in subjects]
  head = [text(stage) for stage in stages]
  names = []
  if len(stages) > 1:
    names = [f" over {stages[0]}", f" over {stages[0]} {measures.EQUAL}"]
    head += ["difference", measures.EQUAL]
  rows = ""
  for measure in measures.MEASURES:
    cells = [found.get((stage, measure.name)) for stage in stages]
    cells += [found.get((stages[-1], measure.name + name)) for name in names]
    rows += f"<tr><th>{text(measure.says)}</th>{''.join(map(_cell, cells))}</tr>"
  note = (
    f"<p>95 % intervals over problems; a dash: fewer than {measures.FEWEST} problems have any, or "
    "the models have no lengths in common. What is of re-checks or changes has the number of them "
    "in brackets.</p>"
  )
  if names:
    shared = measures.common_length(subjects[-1].evaluation, *(s.counts for s in subjects[::-1]))
    note += (
      f"<p>Differences are paired over the same problems. {measures.EQUAL.capitalize()}: rates "
      "within strata of one kind of problem and one length, weighed by what both models have; "
      f"{100 * shared:.0f} % of the completions have a counterpart of equal length. Where a "
      "thought is made of trials its length is their number, and little else is left to differ.</p>"
    )
  top = "".join(f"<th>{name}</th>" for name in head)
  return f"<h2>Rates</h2>{note}<table><tr><th></th>{top}</tr>{rows}</table>"


def _cell(found: Figure | None) -> str:
  if found is None:
    return "<td>–</td>"
  low, high = map(format_figure, found["ci95"])
  turns = found["metric"].split(" over ")[0] in ("changed", "mended", "spoiled", "net")
  count = f" ({found['samples']:,})" if turns else ""
  sure = " class=sure" if " over " in found["metric"] and not _straddles(found) else ""
  return f"<td{sure}>{format_figure(found['value'])}{count}<small>[{low}, {high}]</small></td>"


def _straddles(found: Figure) -> bool:
  return found["ci95"][0] <= 0 <= found["ci95"][1]


def _by_word(subjects: Sequence[Subject]) -> str:
  """Each word per thousand tokens."""
  head = "".join(f"<th>{text(', '.join(words))}</th>" for words in REFLECTION.values())
  rows = ""
  for subject in subjects:
    tokens = subject.counts["tokens"].sum()
    rates = [1000 * subject.counts[meaning].sum() / max(tokens, 1) for meaning in REFLECTION]
    cells = "".join(f"<td>{format_figure(rate)}</td>" for rate in rates)
    rows += f"<tr><th>{text(subject.stage)}</th>{cells}</tr>"
  caption = "<caption>each word per thousand tokens</caption>"
  return f"<table class=words>{caption}<tr><th></th>{head}</tr>{rows}</table>"


def _by_length(subjects: Sequence[Subject]) -> str:
  """Measures in common bins of length."""
  counts = {subject.stage: subject.counts for subject in subjects}
  panels = {}
  for name in _PANELS:
    measure = measures.measure_called(name)
    bins = measures.by_length(counts, measure)
    panels[measure.says] = {model: [own.estimates[model] for own in bins] for model in counts}
  note = "Completions of about equal length beside each other, with 95 % intervals over problems."
  svg = charts.binned_panels([own.name for own in bins], panels, "tokens of the completion")
  return f"<h2>By length</h2>{picture(svg, note)}"


def _counterfactual(figures: Sequence[Figure]) -> str:
  """pass@1 of each arm beside what was said."""
  rows = ""
  found = {(f["stage"], f["metric"]): f for f in figures}
  for stage in dict.fromkeys(f["stage"] for f in figures):
    for arm, kind in itertools.product(ARMS, ("", *_BEHIND)):
      names = ("pass@1 as said", "pass@1", "pass@1 over as said", "truncated")
      cells = [found.get((stage, f"{arm}{kind}: {name}")) for name in names]
      if cells[0] is not None:
        rows += (
          f"<tr><th>{text(stage)}: {arm}</th><td class=says>{kind or _ARMS[arm]}</td>"
          f"<td>{cells[0]['samples']:,}</td>{''.join(map(_cell, cells))}</tr>"
        )
  if not rows:
    return ""
  head = "<th></th><th></th><th>completions</th><th>as said</th><th>after</th><th>effect</th>"
  note = (
    "<p>The same thoughts gone on with otherwise by the same model; the effect on pass@1 is paired "
    "over problems. Each line is of those completions that have such a place.</p>"
  )
  return f"<h2>What a turn is worth</h2>{note}<table><tr>{head}<th>cut off</th></tr>{rows}</table>"


def _thoughts(subjects: Sequence[Subject]) -> str:
  """The first problems of each kind, and then the first at which the last model turned."""
  problems = subjects[-1].evaluation.problems
  kinds: dict[tuple[str, str], int] = {}
  for p, problem in enumerate(problems):
    kinds.setdefault((problem.task, problem.language), p)
  first = [(p, 0) for p in list(kinds.values())[:_SHOWN]]
  turned = {
    p: (p, j)
    for p, row in reversed(list(enumerate(subjects[-1].traces)))
    for j, trace in reversed(list(enumerate(row)))
    if trace.turns and (p, j) not in first
  }
  chosen = [turned[p] for p in sorted(turned)][:_SHOWN]
  notes = (
    "The first problem of each kind and its first sample, not chosen by outcome.",
    f"The first problems at which {text(subjects[-1].stage)} turned, and its first such sample.",
  )
  parts = ["<h2>Thoughts</h2>"]
  for note, places in zip(notes, (first, chosen), strict=True):
    parts.append(_MARKS.format(note) if places else "")
    for p, j in places:
      rows = "".join(_row(s.stage, s.traces[p][j]) for s in subjects)
      parts.append(f"<h3>{text(problems[p].prompt)}</h3><table class=thoughts>{rows}</table>")
  return "\n".join(parts)


def _row(name: str, trace: Trace) -> str:
  mark = "✓" if trace.correct else "✗"
  shown = f"<td class=mark>{mark}</td><td class=thought>{marked(trace)}</td>"
  return f"<tr><th>{text(name)}</th>{shown}</tr>"


def _branched(subjects: Sequence[Subject]) -> str:
  """The first completion of each of the first problems with each arm, and how that went on."""
  subject, parts = subjects[-1], []
  for arm in ("strip", "insert"):
    first: dict[int, Branch] = {}
    for branch in subject.branches:
      if branch.arm == arm:
        first.setdefault(branch.problem, branch)
    for branch in list(first.values())[:_SHOWN]:
      trace = subject.traces[branch.problem][branch.sample]
      mark = "✓" if branch.correct == 1 else "✗"
      rows = _row("as said", trace) + (
        f"<tr><th>{arm}</th><td class=mark>{mark}</td><td class=thought>{_cut(branch)}</td></tr>"
      )
      prompt = text(subject.evaluation.problems[branch.problem].prompt)
      parts.append(f"<h3>{prompt}</h3><table class=thoughts>{rows}</table>")
  note = f"<p>The first problems on which {text(subject.stage)} has each; pale: as said.</p>"
  return "\n".join(["<h2>Gone on with otherwise</h2>", note, *parts]) if parts else ""


def _cut(branch: Branch) -> str:
  """A branch's text, pale up to where it leaves what was said."""
  return (
    f"<span class=said>{text(branch.text[: branch.cut])}</span>{text(branch.text[branch.cut :])}"
  )


_STYLE = """
.right { background: #d5efd9; } .wrong { background: #f8d9d6; }
.right, .wrong, mark { border-radius: 3px; }
mark { background: #ffe58a; font-weight: 600; } .said { color: #999; }
.sure { font-weight: 600; } .words th { white-space: normal; max-width: 7em; }
.says { text-align: left; white-space: normal; min-width: 16em; }
"""
