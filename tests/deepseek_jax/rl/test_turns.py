"""Reinforcement in several turns: what is learnt from is what was said, and what was heard."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError, GQAConfig
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.rl.advantages import AdvantageConfig
from deepseek_jax.rl.reward_parts import LearnedConfig
from deepseek_jax.rl.rewards import RewardConfig
from deepseek_jax.rl.rollout import RolloutConfig, roll_out
from deepseek_jax.rl.samples import SampleLog, SamplesConfig
from deepseek_jax.tasks.task import Problem, Score
from deepseek_jax.train import grpo
from deepseek_jax.train.state import init_state
from deepseek_jax.types import SHARED
from tests.deepseek_jax.rl.bandit import (
  CONFIG,
  MODEL,
  TOKENIZER,
  TX,
  Bandit,
  compile_parts,
  iterate,
  make_stage,
)

TURNS = dataclasses.replace(
  CONFIG,
  rollout=dataclasses.replace(
    CONFIG.rollout,
    turns=3,
    max_new=10,
    width=32,
    group=16,
    rows=8,
    advantage=AdvantageConfig(truncated="keep"),
  ),
  kl_weight=0.0,
  reference_every=0,
)


class Call(Bandit):
  """The answer to the last call is `d` if `a` was called, `e` if `b` was; nobody is told before."""

  name = "call"
  prompt = "c ?"

  def sample(self, split, index, seed, language=None):
    called = "ab"[index % 2]
    return Problem(prompt=self.prompt, task=self.name, key=called, data=called)

  def reply(self, problem, exchange):
    return f"{problem.data} ?"

  def score_exchange(self, problem, exchange):
    words = exchange[-1].split() if len(exchange) > 1 else []
    wanted = "d" if problem.data == "a" else "e"
    return Score(words.count(wanted) / max(len(words), 1), 1.0, 1.0)


class Long(Call):
  """The same, asked at more length."""

  prompt = "c d e c d e c ?"


@pytest.fixture(scope="module")
def compiled():
  return compile_parts()


@pytest.fixture(scope="module")
def dense():
  model = Transformer(
    dataclasses.replace(
      MODEL.config, attention=GQAConfig(kv_heads=1, head_dim=8), moe=None, mtp_depth=0
    )
  )
  return {
    "weights": jax.jit(lambda key: init_weights(model, key))(jax.random.key(0)),
    "update": grpo.make_step(model, TX, grpo.GRPOConfig()),
    "score": grpo.make_scorer(model, grpo.GRPOConfig()),
    "engine": SlotEngine(model, slots=64),
  }


def start(parts):
  return init_state(jax.tree.map(jax.numpy.array, parts["weights"]), TX)


def rolled(parts, task=None, iteration=0, **changes):
  config = dataclasses.replace(TURNS.rollout, **changes)
  return roll_out(
    parts["engine"], parts["weights"], task or Call(), TOKENIZER, config, 0, iteration
  )


def test_it_learns_to_answer_what_it_hears(compiled):
  """Half of the calls is the most that one who does not listen gets right."""
  advantage = AdvantageConfig(truncated="zero")
  rollout = dataclasses.replace(TURNS.rollout, turns=2, max_new=8, advantage=advantage)
  config = dataclasses.replace(TURNS, rollout=rollout)
  _, records = iterate(make_stage(compiled, config=config, task=Call()), start(compiled), 0, 16)
  correct = [r["correct"] for r in records]
  assert correct[0] < 0.2 and np.mean(correct[-3:]) > 0.8, correct
  assert max(r["mismatch"] for r in records if r["updates"]) < 1e-4
  assert records[-1]["turns"] == 2 and records[-1]["reply_tokens"] == 2


@pytest.mark.parametrize("kind", ["experts", "dense"])
@pytest.mark.parametrize("share", [False, True])
def test_the_trainer_finds_the_probabilities_that_were_sampled(kind, share, request):
  """Over all tokens of all turns (`largest_gap`), and by the update's own report."""
  parts = request.getfixturevalue("compiled" if kind == "experts" else "dense")
  rollout = dataclasses.replace(TURNS.rollout, share_prompts=share)
  for gap in (0.0, 1e-4):
    config = dataclasses.replace(TURNS, rollout=rollout, largest_gap=gap)
    stage = make_stage(parts, config=config, task=Long())
    _, records = iterate(stage, start(parts), 0, 2)
    for record in records:
      assert record["turns"] > 1.2 and record["mismatch"] < 1e-4
      assert record["trained_tokens"] == record["sampled_tokens"], "and no reply's"
      assert record["experts_differ"] < 1e-3


def test_every_token_is_where_it_belongs_and_only_those_said_are_learnt_from(compiled):
  got = rolled(compiled)
  batch = [u.batch for u in got.updates]
  tokens, mask, logprobs, advantages, weights, segments, positions = (
    np.concatenate([np.asarray(x(b)).reshape(-1, 32) for b in batch])
    for x in (
      lambda b: b.batch.tokens_BT,
      lambda b: b.batch.loss_mask_BT,
      lambda b: b.old_logprob_BT,
      lambda b: b.advantage_BT,
      lambda b: b.weight_BT,
      lambda b: b.batch.segments_BT,
      lambda b: b.batch.positions_BT,
    )
  )
  seen = {}
  for row, segment in {(r, s) for r, c in np.argwhere(segments > 0) for s in [segments[r, c]]}:
    own = segments[row] == segment
    assert positions[row, own].tolist() == list(range(own.sum()))
    seen.setdefault((tuple(tokens[row, own]), tuple(logprobs[row, own])), []).append((row, own))
  several = 0
  for i, one in enumerate(got.completions):
    wanted = np.concatenate([np.zeros(len(one.prompt), np.float32), one.logprobs_T])
    row, own = seen[tuple(one.prompt + one.tokens), tuple(wanted)].pop()
    sampled = np.arange(len(one)) >= len(one.prompt)
    for start, end in one.replies:
      sampled[len(one.prompt) + start : len(one.prompt) + end] = False
    np.testing.assert_array_equal(mask[row, own] > 0, sampled)
    advantage = got.advantages.advantage_BJ.ravel()[i].astype(np.float32)
    np.testing.assert_array_equal(advantages[row, own], np.where(sampled, advantage, 0))
    assert ((weights[row, own] > 0) == sampled).all() and len(one.logprobs_T) == len(one.tokens)
    several += len(one.replies) > 1
    for start, end in one.replies:
      assert TOKENIZER.decode(one.tokens[start:end]) == f"{one.problem.data} ?"
      assert one.tokens[start - 1] == TOKENIZER.eos_id and not one.logprobs_T[start:end].any()
  assert several and not any(v for v in seen.values()), "every one once, and nothing else"
  assert sum(u.batch.weight_BT.sum() for u in got.updates) == pytest.approx(2, rel=1e-5)


@jax.jit
def gradient(batch, weights):
  """The gradient of an update's loss, without anything but the objective."""
  knobs = grpo.GRPOKnobs(policy=TURNS.policy_knobs(), learning_rate=0.0, micro_batches=1)

  def loss(params):
    model_weights = dataclasses.replace(weights, params=params)
    one = jax.tree.map(lambda x: x[0], batch)
    return grpo._loss(MODEL, model_weights, one, knobs, np.zeros(1), 1024)[0]

  return jax.tree.leaves(jax.grad(loss)(weights.params))


def test_every_turn_moves_the_weights_and_replies_move_them_by_being_heard_alone(compiled):
  got = rolled(compiled, prompts=2, updates=1, rows=64)
  batch = got.updates[0].batch
  mask = np.asarray(batch.batch.loss_mask_BT)
  turn = np.cumsum(np.diff(mask, axis=-1, prepend=0) > 0, axis=-1) * (mask > 0)
  order = np.asarray(batch.batch.positions_BT)
  parts = []
  for wanted in (order < 6, order >= 6):  # what was said early, and late, behind replies
    kept = np.where(wanted & (turn > 0), mask, 0).astype(np.float32)
    assert kept.any()
    masked = dataclasses.replace(batch, batch=dataclasses.replace(batch.batch, loss_mask_BT=kept))
    parts.append(gradient(masked, compiled["weights"]))
    assert max(np.abs(g).max() for g in parts[-1]) > 1e-6
  whole = gradient(batch, compiled["weights"])
  for early, late, both in zip(*parts, whole, strict=True):
    np.testing.assert_allclose(early + late, both, atol=1e-5)
  # Numbers at the replies' places are never read, whatever they are.
  noise = [np.where(mask > 0, x, 7.0).astype(np.float32)
           for x in (batch.advantage_BT, batch.weight_BT, batch.old_logprob_BT)]  # fmt: skip
  noisy = dataclasses.replace(
    batch, advantage_BT=noise[0], weight_BT=noise[1], old_logprob_BT=noise[2]
  )
  for a, b in zip(gradient(noisy, compiled["weights"]), whole, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_shared_prompt_is_learnt_from_alike_in_turns(compiled):
  records = []
  for share in (False, True):
    rollout = dataclasses.replace(TURNS.rollout, share_prompts=share)
    config = dataclasses.replace(TURNS, rollout=rollout)
    stage = make_stage(compiled, task=Long(), config=config)
    records += iterate(stage, start(compiled), 0, 1)[1]
    updates = rolled(compiled, Long(), share_prompts=share).updates
    segments = [u.batch.batch.segments_BT for u in updates]
    assert any((s >= SHARED).any() for s in segments) == share
  alone, together = records
  assert together["trained_tokens"] == alone["trained_tokens"]
  for name in ("loss", "entropy", "ratio"):
    np.testing.assert_allclose(together[name], alone[name], rtol=2e-3, atol=1e-5, err_msg=name)


def test_a_run_cut_between_iterations_goes_on_bit_for_bit(compiled):
  config = dataclasses.replace(
    TURNS, rollout=dataclasses.replace(TURNS.rollout, dynamic=1), largest_gap=0.01
  )

  def stage():
    return make_stage(compiled, config=config, task=Call())

  whole, _ = iterate(stage(), start(compiled), 0, 4)
  state, _ = iterate(stage(), start(compiled), 0, 2)
  state, _ = iterate(stage(), jax.tree.map(jax.numpy.array, jax.device_get(state)), 2, 4)
  jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_the_first_turn_is_that_of_a_run_of_one(compiled):
  plain = rolled(compiled, Bandit.__new__(type("One", (Call,), {"reply": None})), turns=1)
  several = rolled(compiled)
  for one, more in zip(plain.completions, several.completions, strict=True):
    assert more.tokens[: len(one.tokens)] == one.tokens
    np.testing.assert_array_equal(more.logprobs_T[: len(one.tokens)], one.logprobs_T)
  assert "turns" not in plain.report and several.report["turns"] > 1


class Troubled(Call):
  """Replies that fail, each problem's in its own way."""

  def sample(self, split, index, seed, language=None):
    return dataclasses.replace(super().sample(split, index, seed), key=str(index % 4))

  def reply(self, problem, exchange):
    match problem.key:
      case "0":
        raise ZeroDivisionError("no reply")
      case "1":
        return 7
      case "2":
        return "words that no tokenizer knows"
    return super().reply(problem, exchange)


def test_replies_that_fail_are_counted_and_told_and_the_run_goes_on(compiled, capsys):
  got = rolled(compiled, Troubled())
  failed = [c for c in got.completions if c.score.failure]
  assert {c.problem.key for c in failed} == {"0", "1", "2"}
  assert got.report["unjudged_environment"] == len(failed)
  assert not any(c.replies or c.truncated or c.score.correct for c in failed)
  heard = [c for c in got.completions if c.problem.key == "3"]
  assert any(c.replies for c in heard) and not any(c.score.failure for c in heard)
  told = capsys.readouterr().err
  assert f"call could not judge {len(failed)} of {len(got.completions)} completions" in told
  assert "ZeroDivisionError: no reply" in told


def test_what_is_cut_off_ends_there_and_counts_as_truncated(compiled):
  got = rolled(compiled, width=16)  # a prompt of 2, a reply of 2, and at most 10 in all
  for one in got.completions:
    assert one.sampled <= 10 and len(one) <= 16
    ended = one.tokens[-1] == TOKENIZER.eos_id
    full = one.sampled == 10 or len(one) + 2 >= 16
    assert one.truncated == (not ended or (len(one.exchange) < 5 and full))
    assert not one.truncated or one.exchange[-1] != f"{one.problem.data} ?", "it had no answer"
  assert any(c.truncated and c.replies for c in got.completions)
  assert any(not c.truncated and len(c.replies) == 2 for c in got.completions)


def test_samples_show_the_turns(compiled, tmp_path):
  got = rolled(compiled)
  log = SampleLog(tmp_path, SamplesConfig(count=4))
  log.write(1, got)
  records = [json.loads(line) for line in log.path.read_text().splitlines()]
  first = got.completions[:: TURNS.rollout.group]
  for record, one in zip(records, first, strict=True):
    assert record["tokens"] == one.sampled
    assert record.get("turns", [record["text"]]) == list(one.exchange)
    assert record["text"] == "\n".join(one.exchange[::2])


def test_a_reward_model_reads_one_answer():
  learned = RewardConfig(learned=LearnedConfig(weight=1.0, model="runs/rm"))
  advantage = AdvantageConfig(truncated="keep")
  with pytest.raises(ConfigError, match="rollout.turns is 2, but a reward model reads one answer"):
    RolloutConfig(turns=2, reward=learned, advantage=advantage)
  with pytest.raises(ConfigError, match="rollout.turns is 0"):
    RolloutConfig(turns=0)
