"""Protocols, judging, and the figures that come out, with an engine that recites answers."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.engine import Samples, SlotEngine
from deepseek_jax.evaluate.evaluation import (
  Protocol,
  content_of,
  draw_problems,
  evaluate,
  evaluate_each,
  standard_protocols,
)
from deepseek_jax.evaluate.file_benchmark import FileBenchmark, load_file_benchmark
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import preset
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.task import Problem, Score
from deepseek_jax.types import Weights

TOKENIZER = load_tokenizer("word")
PROTOCOL = Protocol("mini", problems=12, samples=4, max_new=16)


class Reciter:
  """Answers right in the samples before `right`; the last sample of each problem is cut off."""

  def __init__(self, task, problems, samples, right):
    self.task, self.problems, self.samples, self.right = task, problems, samples, right
    self.calls = []

  def generate(self, weights, prompts, params, keys_B):
    self.calls.append((prompts, params, np.asarray(jax.random.key_data(keys_B))))
    rows = []
    for i in range(len(prompts)):
      problem, j = self.problems[i // self.samples], i % self.samples
      text = f"<think> 1 wait 等等 check </think> <answer> {problem.data} </answer>"
      wrong = "<think> 1 </think> <answer> 0 </answer>"
      rows.append(TOKENIZER.encode(text if j < self.right else wrong) + [TOKENIZER.eos_id])
    lengths = np.array([len(r) for r in rows])
    stopped = np.arange(len(rows)) % self.samples != self.samples - 1
    lengths[~stopped] -= 1
    tokens = np.array([r + [0] * (16 - len(r)) for r in rows])
    return Samples(tokens, np.zeros(tokens.shape, np.float32), lengths, stopped, ())


class Doubling:
  """Six distinct problems, each met twice; the answer is its number."""

  name = "doubling"

  def sample(self, split, index, seed, language=None):
    n = index // 2 % 6 + 1
    return Problem(prompt=f"sum {n} {n} ?", task=self.name, key=f"{n}", data=str(n))

  def score(self, problem, text):
    return Score(float(f"<answer> {problem.data} </answer>" in text), 1.0, 0.5)


def run(right, protocol=PROTOCOL, task=None):
  task = task or Doubling()
  protocol = dataclasses.replace(protocol, problems=6)
  problems = draw_problems(task, protocol)
  engine = Reciter(task, problems, protocol.samples, right)
  weights = Weights({}, np.zeros((0, 0)))
  return engine, evaluate(engine, weights, TOKENIZER, task, protocol)


def test_figures_of_a_known_outcome():
  _, evaluation = run(right=1)
  figures = {f["metric"]: f for f in evaluation.figures("base")}
  assert {name: f["value"] for name, f in figures.items()} == pytest.approx({
    "pass@1": 0.25, "pass@4": 1.0, "cons@4": 0.0, "length": (10 + 3 * 7 - 1) / 4,
    "reflection_words": 0.75, "waits": 0.5, "with_check": 0.25, "language_share": 0.5,
    "format": 1.0, "truncated": 0.25,
  })  # fmt: skip
  for f in figures.values():
    assert list(f) == ["stage", "benchmark", "metric", "value", "ci95", "samples", "seed"]
    low, high = f["ci95"]
    assert low <= f["value"] <= high
    assert (f["stage"], f["samples"], f["seed"]) == ("base", 24, 0)
    assert f["benchmark"] == f"mini T=1 #{evaluation.protocol.hash}"


class Said(Reciter):
  """Its answers have no tags."""

  def generate(self, *args):
    drawn = super().generate(*args)
    ids = {TOKENIZER.encode(tag)[0] for tag in ("<answer>", "</answer>")}
    blank = TOKENIZER.encode("wait")[0]
    tokens = np.where(np.isin(drawn.tokens_BT, [*ids]), blank, drawn.tokens_BT)
    return dataclasses.replace(drawn, tokens_BT=tokens)


@pytest.mark.parametrize("right", [0, 1, 3])
def test_answers_that_cannot_be_counted_have_no_majority(right):
  def metrics(task, reciter=Reciter):
    problems = draw_problems(task, protocol)
    engine = reciter(task, problems, protocol.samples, right)
    found = evaluate(engine, Weights({}, np.zeros((0, 0))), TOKENIZER, task, protocol)
    return {f["metric"]: f["value"] for f in found.figures("base")}

  class Anything(Doubling):
    def score(self, problem, text):
      return Score(float("check" in text), 1.0, 1.0)

  class Programs(Doubling):
    comparable = False

  protocol = dataclasses.replace(PROTOCOL, problems=6)
  assert metrics(Doubling())["cons@4"] == float(right == 3)
  assert "cons@4" not in metrics(Programs()) and "pass@4" in metrics(Programs())
  untagged = metrics(Anything(), Said)
  assert untagged["pass@1"] == right / 4
  assert ("cons@4" in untagged) == (right == 0), "what is never right has no form of its own"


def test_the_stop_token_is_no_part_of_the_text_and_ends_samples():
  engine, evaluation = run(right=4)
  assert {params.stop for params in engine.calls[0][1]} == {(TOKENIZER.eos_id,)}
  assert evaluation.texts[0][0] == "<think> 1 wait 等等 check </think> <answer> 1 </answer>"


def test_every_sample_has_a_key_of_its_own_that_the_seed_moves():
  keys = [run(1, dataclasses.replace(PROTOCOL, seed=s))[0].calls[0][2] for s in (0, 0, 1)]
  assert len(np.unique(keys[0], axis=0)) == 24
  np.testing.assert_array_equal(keys[0], keys[1])
  assert (keys[0] != keys[2]).any(axis=1).all()


class Recorder:
  """An engine that writes down what it is asked for: prompt, rule and key of each sample."""

  def __init__(self, engine):
    self.engine, self.calls, self.asked = engine, 0, []

  def generate(self, weights, prompts, params, keys_B):
    self.calls += 1
    keys = np.asarray(jax.random.key_data(keys_B)).tolist()
    self.asked += [(tuple(p), own, tuple(k)) for p, own, k in zip(prompts, params, keys)]
    return self.engine.generate(weights, prompts, params, keys_B)


def test_protocols_together_are_what_each_is_alone():
  config = dataclasses.replace(preset("v3_mini"), layers=2, d_model=32, mtp_depth=0)
  model = Transformer(config)
  weights = jax.jit(lambda key: init_weights(model, key))(jax.random.key(0))
  protocols = standard_protocols(Protocol("mini", problems=3, samples=2, max_new=6, seed=4))
  protocols = (*protocols, dataclasses.replace(protocols[2], problems=2, top_p=0.9, max_new=4))
  task = load_task("mini")
  alone, together = (Recorder(SlotEngine(model, slots=4)) for _ in range(2))
  wanted = [evaluate(alone, weights, TOKENIZER, task, p) for p in protocols]
  found = evaluate_each(together, weights, TOKENIZER, task, protocols)
  assert (alone.calls, together.calls) == (4, 1)
  assert sorted(map(repr, alone.asked)) == sorted(map(repr, together.asked))
  for one, other in zip(found, wanted, strict=True):
    assert list(one.records()) == list(other.records())
    assert one.figures("base") == other.figures("base")
  assert len({text for texts in found[2].texts for text in texts}) > 1


class Listener:
  """Guesses the middle of what the replies leave."""

  def generate(self, weights, prompts, params, keys_B):
    rows = [TOKENIZER.encode(self.say(TOKENIZER.decode(p).split())) for p in prompts]
    tokens = np.array([[*row, TOKENIZER.eos_id] for row in rows])
    lengths = np.full(len(rows), tokens.shape[1])
    return Samples(tokens, np.zeros(tokens.shape), lengths, np.ones(len(rows), bool), ())

  def say(self, words):
    low, high, guess = int(words[1]), int(words[3]), 0
    for before, word in zip(words[4:], words[5:], strict=False):
      guess = int(word) if before == "<answer>" else guess
      low = guess + 1 if word in ("low", "低") else low
      high = guess - 1 if word in ("high", "高") else high
    return f"<think> wait check </think> <answer> {(low + high) // 2} </answer>"


@pytest.mark.parametrize(("turns", "found"), [(2, 3), (3, 7), (4, 15)])
def test_an_exchange_is_measured_as_a_whole(turns, found):
  """Bisection finds 2**t - 1 numbers in t turns."""
  protocol = Protocol("guess", problems=60, samples=1, temperature=0.0, max_new=64, turns=turns)
  task, weights = load_task("guess"), Weights({}, np.zeros((0, 0)))
  measured = evaluate(Listener(), weights, TOKENIZER, task, protocol, context=200)
  problems = draw_problems(task, protocol)
  offset = [p.data - int(p.prompt.split()[1]) + 1 for p in problems]
  within = {3: {4, 8, 12}, 7: set(range(2, 16, 2)), 15: set(range(1, 16))}[found]
  np.testing.assert_array_equal(measured.correct_PJ[:, 0], [o in within for o in offset])
  for record in measured.records():
    own = record["turns"][::2]
    assert record["tokens"] == 8 * len(own) and record["completion"] == own[-1]
    assert len(own) == turns or record["correct"] == 1
  said = [len(e[0][::2]) for e in measured.exchanges]
  np.testing.assert_array_equal(measured.waits_PJ[:, 0], said)
  assert not measured.truncated_PJ.any() and measured.format_PJ.all()
  short = evaluate(Listener(), weights, TOKENIZER, task, protocol, context=5 + 8 + 2)
  assert (short.truncated_PJ[:, 0] == (np.array(said) > 1)).all(), "no room for a second turn"


def test_turns_are_part_of_the_protocol_and_of_its_task():
  assert dataclasses.replace(PROTOCOL, turns=1).hash == PROTOCOL.hash
  assert dataclasses.replace(PROTOCOL, turns=2).hash != PROTOCOL.hash
  weights = Weights({}, np.zeros((0, 0)))
  for name, turns, message in (
    ("guess", 1, "the task 'guess' answers what a model says, but the protocol's turns is 1"),
    ("mini", 2, "the protocol's turns is 2, but the task 'mini' answers nothing"),
  ):
    with pytest.raises(ConfigError, match=message):
      protocol = Protocol(name, problems=1, turns=turns)
      evaluate(Listener(), weights, TOKENIZER, load_task(name), protocol)
  with pytest.raises(ConfigError, match="protocol.turns is 0"):
    Protocol("guess", turns=0)
  protocols = [Protocol("guess", problems=1, turns=turns) for turns in (2, 3)]
  with pytest.raises(ConfigError, match=r"the turns \[2, 3\]"):
    evaluate_each(Listener(), weights, TOKENIZER, load_task("guess"), protocols)


def test_protocols_together_share_a_seed():
  protocols = [PROTOCOL, dataclasses.replace(PROTOCOL, seed=1)]
  with pytest.raises(ConfigError, match=r"seeds \[0, 1\]"):
    evaluate_each(None, None, TOKENIZER, Doubling(), protocols)


def test_gains_are_paired_and_of_one_protocol():
  _, before = run(right=1)
  _, after = run(right=3)
  gain = after.gain_over(before)
  assert gain.value == pytest.approx(0.5) and gain.low > 0
  other = dataclasses.replace(before, protocol=dataclasses.replace(before.protocol, max_new=8))
  with pytest.raises(ConfigError, match="different protocols"):
    after.gain_over(other)


def test_problems_are_distinct_held_out_and_the_same_for_every_seed():
  task = load_task("mini")
  problems = draw_problems(task, dataclasses.replace(PROTOCOL, problems=200))
  again = draw_problems(task, dataclasses.replace(PROTOCOL, problems=200, seed=5))
  assert problems == again
  assert len({p.key for p in problems}) == 200
  training = {task.sample("train", i, 0).key for i in range(2000)}
  assert not training & {p.key for p in problems}


def test_a_task_with_too_few_problems_is_named():
  with pytest.raises(ConfigError, match="mini has only 6 distinct"):
    draw_problems(Doubling(), dataclasses.replace(PROTOCOL, problems=7))


def test_the_hash_is_of_everything_but_the_seed():
  assert dataclasses.replace(PROTOCOL, seed=9).hash == PROTOCOL.hash
  for field in dataclasses.fields(PROTOCOL):
    if field.name not in ("seed", "samples"):
      value = getattr(PROTOCOL, field.name)
      other = "train" if field.name == "split" else 0.5 if isinstance(value, float) else (
        value + "x" if isinstance(value, str) else value + 1)  # fmt: skip
      assert dataclasses.replace(PROTOCOL, **{field.name: other}).hash != PROTOCOL.hash, field.name


def test_the_standard_protocols_are_greedy_and_two_temperatures():
  greedy, cool, warm = standard_protocols(dataclasses.replace(PROTOCOL, top_p=0.95))
  assert [p.decoding for p in (greedy, cool, warm)] == [
    "greedy", "T=0.6 top-p=0.95", "T=1 top-p=0.95",
  ]  # fmt: skip
  assert (greedy.samples, cool.samples) == (1, 4)
  assert len({p.hash for p in (greedy, cool, warm)}) == 3


@pytest.mark.parametrize("fields", [{"problems": 0}, {"samples": 0}, {"temperature": 0.0}])
def test_bad_protocols_are_refused(fields):
  with pytest.raises(ConfigError, match="protocol"):
    dataclasses.replace(PROTOCOL, **fields)


class Fragile(Doubling):
  """One whose verifier raises on a third of its problems."""

  def score(self, problem, text):
    if int(problem.data) % 3 == 0:
      raise ValueError("no verdict")
    return super().score(problem, text)


def test_a_verifier_that_fails_costs_no_sample(capsys):
  _, evaluation = run(right=4, task=Fragile())
  figures = {f["metric"]: f["value"] for f in evaluation.figures("base")}
  assert figures["pass@1"] == pytest.approx(2 / 3) and figures["unjudged"] == pytest.approx(1 / 3)
  failed = [record for record in evaluation.records() if "failure" in record]
  assert len(failed) == 8 and {r["failure"] for r in failed} == {"error: ValueError: no verdict"}
  assert "could not judge 8 of 24" in capsys.readouterr().err
  assert "unjudged" not in {f["metric"] for f in run(right=4)[1].figures("base")}


def test_the_judge_of_a_file_is_in_the_protocol_and_the_records(monkeypatch):
  problems = tuple(Problem("sum 1 1 ?", "f", f"f {n}", answer=str(n)) for n in range(1, 7))
  task = FileBenchmark("f", problems, "exact")
  protocol = dataclasses.replace(PROTOCOL, judge="exact")
  problems = draw_problems(task, dataclasses.replace(protocol, problems=6))
  reciter = Reciter(task, [dataclasses.replace(p, data=p.answer) for p in problems], 4, 2)
  given = (reciter, Weights({}, np.zeros((0, 0))), TOKENIZER, task)
  evaluation = evaluate(*given, dataclasses.replace(protocol, problems=6))
  assert {record["judge"] for record in evaluation.records()} == {"exact"}
  other = dataclasses.replace(protocol, judge="math-verify")
  assert len({p.hash for p in (PROTOCOL, protocol, other)}) == 3


def test_answers_that_the_judge_calls_right_have_one_vote_together():
  _, evaluation = run(right=2)
  texts = [("\\boxed{2}", "\\boxed{1+1}", "\\boxed{7}", "\\boxed{8}")] * 6
  voted = dataclasses.replace(
    evaluation, texts=tuple(texts), correct_PJ=np.array([[1, 1, 0, 0]] * 6, float)
  )
  assert voted.consensus_P().tolist() == [0.5] * 6, "a tie among four"
  known = dataclasses.replace(voted, lenient_PJ=voted.correct_PJ)
  assert known.consensus_P().tolist() == [1.0] * 6


class Lenient(Doubling):
  """Right nowhere, but said where the answer is."""

  def score(self, problem, text):
    return Score(0.0, 1.0, 0.5, said=super().score(problem, text).correct)


def test_a_task_that_judges_what_is_said_is_told_leniently_too():
  figures = {f["metric"]: f["value"] for f in run(right=2, task=Lenient())[1].figures("base")}
  assert figures["pass@1"] == 0 and figures["lenient"] == 0.5 and figures["lenient pass@4"] == 1
  assert "lenient" not in {f["metric"] for f in run(right=2)[1].figures("base")}


def test_a_benchmarks_content_is_part_of_its_protocol(tmp_path):
  def hash_of(*records):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = load_file_benchmark(path, judge="exact")
    return Protocol(task.name, judge="exact", content=content_of(task)).hash

  sums, products = {"prompt": "1 + 1?", "answer": "2"}, {"prompt": "2 * 3?", "answer": 6}
  hashes = [
    hash_of(sums, products),
    hash_of(products, sums),
    hash_of(sums),
    hash_of({**sums, "answer": "3"}, products),
    hash_of({**sums, "prompt": "1 + 2?"}, products),
    hash_of({**sums, "language": "zh"}, products),
  ]
  assert len({*hashes}) == len(hashes)
  assert hash_of({"answer": "2", "prompt": "1 + 1?", "source": "me"}, products) == hashes[0]


def test_problems_that_are_made_change_no_hash(tmp_path):
  assert content_of(load_task("mini")) == ""
  assert PROTOCOL.hash == dataclasses.replace(PROTOCOL, content="").hash == "e8d16a5f"
  file = tmp_path / "problems.jsonl"
  task = SimpleNamespace(file=file)
  file.write_text("a")
  before = content_of(task)
  file.write_text("b")
  assert before and content_of(task) != before
