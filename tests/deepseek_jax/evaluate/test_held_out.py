"""A run that is measured while it goes: when, once only, and without compiling anew."""

import json

import jax
import pytest

from deepseek_jax.config import ConfigError, GQAConfig, ModelConfig
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate import held_out
from deepseek_jax.evaluate.evaluation import evaluate_each
from deepseek_jax.evaluate.held_out import EvaluationLog, open_held_out
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.periodic_evaluation import PeriodicEvaluation

TOKENIZER = load_tokenizer("word")
MODEL = Transformer(
  ModelConfig(
    vocab=TOKENIZER.vocab_size, d_model=16, layers=1, heads=2, dense_ff=16,
    attention=GQAConfig(kv_heads=1, head_dim=8), tied=True, max_context=64,
  )
)  # fmt: skip
CONFIG = PeriodicEvaluation(every=3, problems=4, samples=3, max_new=8)


def opened(config=CONFIG, own="tiny", context=64):
  return open_held_out(config, load_task(own) if own else None, TOKENIZER, "plain", context, 5)


@pytest.fixture(scope="module")
def engine():
  return SlotEngine(MODEL, slots=8)


@pytest.fixture(scope="module")
def weights():
  """Of the beginning, and of every step after it."""
  return [init_weights(MODEL, jax.random.key(i)) for i in range(10)]


def measured(folder, engine, weights, steps, step=0):
  """The log of a run that goes on behind `step`, up to and with the last of `steps`."""
  log = EvaluationLog(folder, opened(), engine, step)
  for number in steps:
    if log.due(number):
      log.measure(number, weights[number])
  return log


def test_it_is_measured_at_the_start_every_so_often_and_at_the_end(tmp_path, engine, weights):
  log = measured(tmp_path, engine, weights, range(9))
  log.measure(8, weights[8])
  log.measure(8, weights[8])
  records = held_out.read_evaluations(tmp_path)
  assert [record["step"] for record in records] == [0, 3, 6, 8]
  for record in records:
    h = opened()
    each = evaluate_each(engine, weights[record["step"]], TOKENIZER, h.task, h.protocols)
    stage = f"step {record['step']}"
    assert record["figures"] == [figure for one in each for figure in one.figures(stage)]
    assert list(record["solved"]) == [p.label for p in h.protocols]
  passes = {f["metric"] for f in records[0]["figures"] if "@" in f["metric"]}
  assert passes == {"pass@1", "pass@3", "cons@3"}


def test_nothing_is_compiled_after_the_first(tmp_path, engine, weights):
  heard = []

  def listen(event, _seconds, **_):
    heard.append(event) if "backend_compile_duration" in event else None

  measured(tmp_path, engine, weights, [0])
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    measured(tmp_path, engine, weights, [3])
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not heard


@pytest.mark.parametrize("step", [0, 2, 3, 5, 8])
def test_a_run_that_resumes_tells_the_same_story(tmp_path, engine, weights, step):
  """Killed after step 8 while it wrote, and resumed from a checkpoint of `step`."""
  measured(tmp_path, engine, weights, range(9))
  path = tmp_path / held_out.FILE
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"step": 8, "text": "\xe7')
  log = EvaluationLog(tmp_path, opened(), engine, step)
  assert all(record["step"] <= step for record in held_out.read_evaluations(tmp_path))
  assert not any(log.due(n) for n in range(step + 1)), "what is there is not measured twice"
  measured(tmp_path, engine, weights, range(step, 9), step)
  assert path.read_bytes() == whole


def test_gains_are_of_the_end_over_the_beginning_by_problem():
  def record(step, solved):
    figure = {"benchmark": "b T=1 #0", "seed": 3}
    return {"step": step, "figures": [figure], "solved": {"b T=1 #0": solved}}

  assert held_out.gains([record(0, [0.0, 1.0])]) == []
  (gain,) = held_out.gains([record(0, [0.0, 0.5]), record(4, [0.9, 0.9]), record(9, [0.5, 0.5])])
  assert (gain["stage"], gain["metric"]) == ("step 9", "pass@1 over step 0")
  assert gain["value"] == pytest.approx(0.25) and gain["ci95"][0] < 0.25 < gain["ci95"][1]


def test_gains_are_of_every_measure_that_both_records_have():
  def record(step, besides):
    figure = {"benchmark": "b", "seed": 0}
    return {"step": step, "figures": [figure], "solved": {"b": [0.5, 0.5]}, **besides}

  old = record(0, {})  # of before there was more than pass@1
  first = record(0, {"besides": {"b": {"lenient": [0.5, 0.5], "pass@2": [1.0, 0.0]}}})
  last = record(3, {"besides": {"b": {"lenient": [1.0, 0.5]}}})
  assert [f["metric"] for f in held_out.gains([old, last])] == ["pass@1 over step 0"]
  found = {f["metric"]: f["value"] for f in held_out.gains([first, last])}
  assert found == {"pass@1 over step 0": 0.0, "lenient over step 0": pytest.approx(0.25)}


def test_figures_are_beside_the_curves_of_training(tmp_path, engine, weights):
  measured(tmp_path, engine, weights, range(3))
  events = list((tmp_path / "tensorboard" / "held_out").iterdir())
  assert len(events) == 1 and b"pass_1" in events[0].read_bytes()


def test_a_file_is_measured_strictly_and_leniently(tmp_path, engine, weights):
  path = tmp_path / "sums.jsonl"
  problems = [{"prompt": f"sum {n} {n} ?", "answer": str(2 * n)} for n in range(1, 6)]
  path.write_text("".join(json.dumps(p) + "\n" for p in problems))
  config = PeriodicEvaluation(every=1, benchmark=str(path), problems=5, samples=2, max_new=8)
  log = EvaluationLog(tmp_path, opened(config, own=None), engine, 0)
  log.measure(0, weights[0])
  (record,) = held_out.read_evaluations(tmp_path)
  names = {"pass@1", "pass@2", "lenient", "lenient pass@2"}
  assert names <= {f["metric"] for f in record["figures"]}
  assert all({"pass@1", *besides} <= names for besides in record["besides"].values())
  sampled = list(record["besides"].values())[-1]
  assert set(sampled) == names - {"pass@1"}


def test_off_is_off():
  assert opened(PeriodicEvaluation(benchmark="/nowhere")) is None


@pytest.mark.parametrize(
  ("fields", "context", "own", "named"),
  [
    ({}, 64, None, "evaluation.benchmark is missing"),
    ({"max_new": 0}, 64, "tiny", "evaluation.max_new is 0"),
    ({"max_new": 60}, 64, "tiny", "exceed the model's context of 64"),
    ({"benchmark": "nowhere"}, 64, "tiny", "task 'nowhere' is unknown"),
    ({"benchmark": "/nowhere.jsonl"}, 64, "tiny", "/nowhere.jsonl"),
    ({"problems": 10}, 64, "tests.positive_task:Positive", "protocol.problems is 10"),
  ],
)
def test_what_cannot_be_measured_is_refused(fields, context, own, named):
  given = {"every": 3, "problems": 4, "samples": 3, "max_new": 8, **fields}
  with pytest.raises(ConfigError, match=named):
    opened(PeriodicEvaluation(**given), own, context)


@pytest.mark.parametrize(
  "fields",
  [
    {"every": -1}, {"batch": -1}, {"max_new": -1}, {"problems": 0}, {"samples": 0},
    {"temperatures": ()}, {"temperatures": (1.0, 1.0)}, {"temperatures": (-0.5,)},
    {"temperatures": (float("nan"),)},
  ],
)  # fmt: skip
def test_bad_settings_are_named(fields):
  (name,) = fields
  with pytest.raises(ConfigError, match=f"evaluation.{name} is"):
    PeriodicEvaluation(**fields)
