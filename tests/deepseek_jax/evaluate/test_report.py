"""Tables, results.json, and the report page."""

import base64
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate import results
from deepseek_jax.evaluate.charts import curves
from deepseek_jax.evaluate.estimators import Estimate
from deepseek_jax.evaluate.evaluation import Evaluation, Protocol
from deepseek_jax.evaluate.figures import figure, table
from deepseek_jax.evaluate.report import Exhibit, Report, choose_exhibits, render, write_report
from deepseek_jax.tasks.task import Problem

LABELS = ("mini greedy #00000000", "mini T=1 #11111111")
METRICS = ("pass@1", "length", "truncated")


def all_figures():
  rng = np.random.default_rng(0)
  out = []
  for stage in ("r1", "base", "extra"):  # not in their order
    for label in LABELS:
      for metric in METRICS:
        value = 40 + rng.random() if metric == "length" else rng.random()
        estimate = Estimate(value, value - 0.01, min(value + 0.01, 1) if value < 1 else value + 1)
        out.append(figure(stage, label, metric, estimate, 64, 3))
  return out


FIGURES = all_figures()
RECORDS = [{"step": i, "reward": i / 50, "loss": math.exp(-i / 9)} for i in range(50)]
REPORT = Report(
  title="A run <of mine>",
  facts={"config": "configs/r1_tiny.py", "wall": "12 s"},
  figures=FIGURES,
  curves={"r1_zero": curves(RECORDS)},
  exhibits=[Exhibit("base", "make 8 ?", "<think> 3 低 & </think>", 0.0)],
  ledger=[{"stage": "base", "tokens": 123456, "seconds": 1.25}, {"stage": "r1", "note": "kept"}],
)


class Balance(HTMLParser):
  """Raises where tags are not closed in their order."""

  def __init__(self):
    super().__init__()
    self.open, self.text, self.sources = [], [], []

  def handle_starttag(self, tag, attrs):
    self.sources += [v for k, v in attrs if k in ("src", "href")]
    if tag not in ("meta", "img"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def test_the_table_has_stages_in_order_and_every_figure():
  blocks = table(FIGURES).split("\n\n")
  assert [b.splitlines()[0] for b in blocks] == [f"{label}, seed 3" for label in LABELS]
  lines = blocks[1].splitlines()
  assert re.split(r"  +", lines[1]) == ["stage", *METRICS]
  assert [line.split()[0] for line in lines[3:]] == ["base", "r1", "extra"]
  found = next(f for f in FIGURES if f["stage"] == "r1" and f["benchmark"] == LABELS[1])
  assert f"{found['value']:.3f}".lstrip("0") in lines[4]
  assert "pass@1" not in table(FIGURES, metrics=["length"])


def test_the_page_is_whole_well_formed_and_loads_nothing():
  page = render(REPORT)
  parser = Balance()
  parser.feed(page)
  assert not parser.open
  assert len(parser.sources) == 3 and all(s.startswith("data:") for s in parser.sources)
  text = " ".join(parser.text)
  for wanted in ("A run <of mine>", "configs/r1_tiny.py", "make 8 ?", "<think> 3 低 & </think>",
                 "#11111111", "123,456", "1.25", "kept", "r1_zero", "pass@1"):  # fmt: skip
    assert wanted in text, wanted
  for source in parser.sources:
    root = ET.fromstring(base64.b64decode(source.partition(",")[2]))
    assert root.tag.endswith("svg")


def test_empty_parts_leave_no_headings():
  page = render(Report(title="Nothing yet"))
  assert "<h2>" not in page and "<img" not in page


def test_gains_have_a_table_of_their_own():
  gains = [
    figure("r1", LABELS[1], "pass@1 over base", Estimate(0.4, 0.3, 0.5), 64, 3),
    figure("rl1", LABELS[1], "pass@1 over base", Estimate(0.1, -0.1, 0.3), 64, 3),
  ]
  page = render(Report(title="A run", figures=[*FIGURES, *gains]))
  assert page.count("<th>pass@1</th>") == 2 and "<th>pass@1 over base</th>" not in page
  assert page.count("gains, paired over problems") == 1 and page.count("excludes zero") == 1


def test_equal_runs_give_equal_pages():
  assert render(REPORT) == render(REPORT)


def test_curves_skip_what_is_no_number():
  assert curves([{"step": 0, "loss": 1.0}]) is None
  assert (
    curves([{"step": i, "loss": float("nan"), "name": "x", "ok": True} for i in range(9)]) is None
  )
  drawn = curves(
    [{"step": i, "loss": float("nan") if i == 4 else 1.0 / (i + 1)} for i in range(900)]
  )
  assert "<svg" in drawn


def test_results_round_trip_and_replace_whole(tmp_path):
  path = tmp_path / "new" / "results.json"
  results.write_results(path, FIGURES, 1.5, [{"stage": "base", "loss": float("inf")}])
  read = results.read_results(path)
  assert list(read) == ["figures", "wall_seconds", "ledger"]
  assert read["figures"] == FIGURES and read["wall_seconds"] == 1.5
  assert read["ledger"] == [{"stage": "base", "loss": None}]
  json.loads(path.read_text(), parse_constant=pytest.fail)
  write_report(path.parent / "report.html", REPORT)
  assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  results.write_results(path, [], 1.0)
  before = path.read_text()

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(ConfigError, match="No space left"):
    results.write_results(path, FIGURES, 2.0)
  assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_damaged_results_are_refused(tmp_path, text):
  path = tmp_path / "results.json"
  path.write_text(text)
  with pytest.raises(ConfigError, match="results"):
    results.read_results(path)


def test_metrics_of_a_killed_run_are_read_up_to_its_last_whole_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  assert results.read_metrics(path) == []
  path.write_text('{"step": 0}\n{"step": 1}\n{"ste')
  assert results.read_metrics(path) == [{"step": 0}, {"step": 1}]
  path.write_text('{"step": 0}\n{"ste\n{"step": 1}\n')
  with pytest.raises(ConfigError, match="line 2"):
    results.read_metrics(path)


def test_exhibits_are_the_same_first_problems_in_every_stage():
  def evaluation(mark):
    problems = tuple(
      Problem(prompt=f"p{i}", task="abc"[i % 3], key=str(i), language="en") for i in range(9)
    )
    judged = np.zeros((9, 2))
    texts = tuple((f"{mark}{i} first", f"{mark}{i} second") for i in range(9))
    return Evaluation(Protocol("x"), problems, texts, *([judged] * 8))

  shown = choose_exhibits({"base": evaluation("b"), "r1": evaluation("r")}, count=2)
  assert [(e.stage, e.prompt, e.text) for e in shown] == [
    ("base", "p0", "b0 first"), ("r1", "p0", "r0 first"),
    ("base", "p1", "b1 first"), ("r1", "p1", "r1 first"),
  ]  # fmt: skip
  assert choose_exhibits({}) == []
