"""A job's page: figures as they were logged, text as text, and never too much of it."""

import base64
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.evaluate import monitor, page, reward_charts
from deepseek_jax.evaluate.estimators import Estimate
from deepseek_jax.evaluate.figures import figure
from deepseek_jax.evaluate.job_page import Job, render_page, write_page
from deepseek_jax.evaluate.monitor import JobMonitor
from deepseek_jax.evaluate.results import read_results
from deepseek_jax.evaluate.sample_browser import asked_again, clipped, sample_sections

HOSTILE = "</pre></details><script>alert('x')</script><img src=x onerror=alert(1)>\" ' & \u2028 ]]>"
JOB = Job("Reinforcement", {"task": HOSTILE})


class Reader(HTMLParser):
  """Tags, addresses, and the text inside each <pre>; raises where tags are not closed in order."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.pres, self.cells = [], set(), [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs
    if tag not in ("meta", "img"):
      self.open.append(tag)
    if tag == "pre":
      self.pres.append("")

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "pre" in self.open:
      self.pres[-1] += data
    if "td" in self.open:
      self.cells.append(data)


def sample(step, prompt="p", text="t", **changes):
  made = {
    "step": step, "prompt": prompt, "text": text, "tokens": 3, "truncated": False,
    "parts": {"correct": 1.0, "learned": -2.25}, "reward": 0.8125, "advantage": -1.375,
    "kept": True,
  }  # fmt: skip
  return made | changes


def record(step, **changes):
  made = {"step": step, "reward": step / 8, "reward_std": 0.5, "correct": 1 / step, "format": 1.0}
  made |= {"reward_correct_std": 0.25, "reward_learned": 0.1 * step, "reward_learned_std": 0.7}
  return made | {"length": 3.0 + step, "entropy": 1.0, "tokens_seen": 10 * step} | changes


def evaluation(step, value=0.5, text="said", label="mini T=1 #0"):
  estimate = Estimate(value, value - 0.1, value + 0.1)
  stage = f"step {step}"
  figures = [figure(stage, label, m, estimate, 8, 0) for m in ("pass@1", "pass@4", "length")]
  exhibits = [{"stage": stage, "prompt": "asked", "text": text, "correct": 1.0}]
  return {"step": step, "figures": figures, "solved": {label: [value]}, "exhibits": exhibits}


def workdir(folder, metrics=(), samples=(), evaluations=(), config=None):
  files = {"metrics": metrics, "samples": samples, "evaluations": evaluations}
  for name, records in files.items():
    lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in records]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
  (folder / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")
  return folder


def assert_harmless(text):
  read = Reader(text)
  assert not read.tags & {"script", "iframe", "link", "object", "embed", "form", "base", "svg"}
  for name, value in read.attributes:
    assert not name.startswith("on")
    if name in ("src", "href"):
      assert value.startswith("data:image/svg+xml;base64,")
  return read


def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path):
  metrics = [record(n, **{HOSTILE: 1.0}) for n in range(1, 4)]
  metrics[-1]["stopped"] = HOSTILE
  samples = [sample(n, HOSTILE, HOSTILE, parts={HOSTILE: 1.0}) for n in (1, 2)]
  evaluations = [evaluation(n, text=HOSTILE) for n in (0, 3)]
  evaluations[0]["exhibits"][0]["prompt"] = HOSTILE
  folder = workdir(tmp_path, metrics, samples, evaluations, {"task": HOSTILE})
  text = render_page(folder, JOB, HOSTILE)
  read = assert_harmless(text)
  assert HOSTILE in read.pres, "a sample is shown as it was said"
  assert "<script" not in text and "Content-Security-Policy" in text


def test_names_are_drawn_as_they_are(tmp_path):
  name = "costs $5$ <b> & \"'"
  metrics = [{"step": n, name: 1.0 / n} for n in (1, 2, 3)]
  evaluations = [evaluation(n, label=f"{name} T=1 #0") for n in (0, 3)]
  text = render_page(workdir(tmp_path, metrics, (), evaluations), JOB, "at step 3")
  sources = [v for k, v in assert_harmless(text).attributes if k == "src"]
  for source in sources:
    drawn = ET.fromstring(base64.b64decode(source.partition(",")[2]))
    assert any(name in (each.text or "") for each in drawn.iter()), "as a title or in a legend"
  assert len(sources) == 2


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text(st.sampled_from("<>&\"'/script=-! \n")))
def test_any_text_is_shown_as_it_is(prompt, text):
  read = assert_harmless(f"<html>{sample_sections([sample(1, prompt, text)])}</html>")
  wanted = [one.replace("\r\n", "\n").replace("\r", "\n") for one in (prompt, text)]
  assert [one.replace("\r\n", "\n").replace("\r", "\n") for one in read.pres] == [
    wanted[0], wanted[1] or "nothing",
  ]  # fmt: skip


def test_figures_are_those_of_the_files(tmp_path):
  metrics = [record(n) for n in range(1, 41)]
  folder = workdir(tmp_path, metrics, [sample(40)], [evaluation(0, 0.25), evaluation(40, 0.75)])
  cells = assert_harmless(render_page(folder, JOB, "at step 40")).cells
  for name, value in metrics[-1].items():
    if name != "step":
      at = cells.index(name)
      mean = sum(r[name] for r in metrics[-4:]) / 4
      wanted = [page.number(x) for x in (metrics[0][name], value, mean)]
      assert cells[at + 1 : at + 4] == wanted
  for value in (1.0, -2.25, 0.8125, -1.375):
    assert page.number(value) in cells, "each part, reward and advantage of a sample"
  assert "0.250" in cells and "0.750" in cells and "pass@1 over step 0" in cells


def test_reward_and_truth_are_in_one_picture(tmp_path):
  metrics = [record(n) for n in range(1, 41)]
  drawn = reward_charts.reward_chart(metrics, [(0, evaluation(0)["figures"][0])])
  for label in ("right answers, by the verifier", "reward (right axis)", "reward model's figure",
                "held out, mini T=1"):  # fmt: skip
    assert label in drawn, label
  without = [{k: v for k, v in r.items() if "learned" not in k} for r in metrics]
  assert "reward model" not in reward_charts.reward_chart(without)
  parts = reward_charts.part_charts(metrics)
  for title in ("Reward", "Right answers", "The reward model's figure"):
    assert f">{title}<" in parts, title
  assert reward_charts.reward_chart(metrics[:1]) is None
  assert reward_charts.part_charts([{"step": n, "loss": 1.0} for n in range(9)]) is None


def test_prompts_asked_again_are_shown_at_their_first_and_last_time():
  samples = [sample(n, p, f"{p}{n}") for n in (1, 2, 3) for p in "ab"] + [sample(4, "c"),
             sample(9, "b", "b9")]  # fmt: skip
  found = [(p, one["text"], two["text"]) for p, one, two in asked_again(samples)]
  assert found == [("b", "b1", "b9"), ("a", "a1", "a3")]
  assert asked_again([sample(1, "a"), sample(1, "a")]) == []
  assert "b9" in sample_sections(samples) and "a2" not in sample_sections(samples)


def test_long_text_loses_its_middle_and_tells_how_much():
  text = "a" * 1500 + "b" * 1234 + "c" * 700
  assert clipped(text) == "a" * 1500 + "\n[… 1,234 letters left out …]\n" + "c" * 700
  assert clipped(text[:2200]) == text[:2200]


def test_a_long_run_of_long_hostile_texts_makes_a_page_below_a_megabyte(tmp_path):
  metrics = [record(n, kl=n % 7, mismatch=n % 5, loss=n % 11) for n in range(1, 4001)]
  samples = [sample(n, 400 * HOSTILE + str(i), 400 * HOSTILE) for n in (1, 2, 4000)
             for i in range(8)]  # fmt: skip
  evaluations = [evaluation(n, text=400 * HOSTILE) for n in range(0, 4001, 20)]
  write_page(workdir(tmp_path, metrics, samples, evaluations), JOB, "at step 4000")
  assert (tmp_path / "report.html").stat().st_size < 1e6
  assert_harmless((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_run_that_learnt_from_text_or_nothing_has_a_page_too(tmp_path):
  assert_harmless(render_page(workdir(tmp_path), Job("Pre-training"), "at step 0"))
  metrics = [{"step": n, "loss": 1 / n, "ce": 1.0} for n in range(1, 9)]
  text = render_page(workdir(tmp_path, metrics), Job("Pre-training"), "at step 8")
  assert text.count("<img") == 1 and "Rewards" not in text and "Samples" not in text


class Clock:
  """Seconds as a test has them."""

  def __init__(self, patch):
    self.now = 0.0
    patch.setattr(monitor.time, "monotonic", lambda: self.now)


def test_the_page_is_drawn_now_and_then_and_at_the_end(tmp_path, monkeypatch):
  clock, drawn = Clock(monkeypatch), []

  def slow(folder, job, state):
    drawn.append((clock.now, state))
    clock.now += 4.0

  monkeypatch.setattr(monitor, "write_page", slow)
  watch = JobMonitor(workdir(tmp_path, [record(9)]), JOB, 0)
  for step in range(100):
    clock.now += 10.0
    if watch.due(step):
      watch.look(step, None)
  assert drawn[0] == (60.0, "at step 5") and len(drawn) == 5
  gaps = [b - a for (a, _), (b, _) in zip(drawn, drawn[1:])]
  assert all(gap >= 50 * 4.0 for gap in gaps), "a fiftieth of the run at most"
  watch.end(100, None)
  watch.close(None)
  assert drawn[-1][1] == "ended after step 100"
  assert read_results(tmp_path / "results.json")["ledger"] == [
    {"stage": "Reinforcement", "steps": 9, "tokens_seen": 90}
  ]


def test_a_run_that_is_stopped_says_by_what(tmp_path):
  folder = workdir(tmp_path, [record(1), record(2, stopped="the mismatch of step 2 is 1")])
  watch = JobMonitor(folder, JOB, 0)
  assert not watch.due(2)
  watch.close(ValueError("the mismatch of step 2 is 1"))
  text = (folder / "report.html").read_text(encoding="utf-8")
  assert "stopped after step 2: the mismatch of step 2 is 1" in text


def test_a_page_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, capsys):
  folder = workdir(tmp_path)
  (folder / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2}\n')
  JobMonitor(folder, JOB, 0).close(None)
  told = capsys.readouterr().err
  assert "report.html" in told and "metrics.jsonl, line 2" in told
  assert len(told.splitlines()) == 1


def test_seconds_of_the_processes_before_are_counted(tmp_path, monkeypatch):
  clock = Clock(monkeypatch)
  for _ in range(3):
    watch = JobMonitor(workdir(tmp_path), JOB, 0)
    clock.now += 100.0
    watch.close(None)
  assert read_results(tmp_path / "results.json")["wall_seconds"] == pytest.approx(300.0)
