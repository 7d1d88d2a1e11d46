"""Dynamic sampling, with a scripted engine: which problems are drawn, and which are used."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.word_tokenizer import WordTokenizer, mini_words
from deepseek_jax.decode.request import Samples
from deepseek_jax.rl.advantages import AdvantageConfig, first_groups, group_advantages
from deepseek_jax.rl.rewards import RewardConfig
from deepseek_jax.rl.rollout import RolloutConfig, roll_out
from deepseek_jax.tasks.task import Problem, Score, stream
from deepseek_jax.types import Weights

TOKENIZER = WordTokenizer((*mini_words()[: mini_words().index("<think>")], "?", "easy", "hard"))
WORDS = {word: TOKENIZER.encode(word)[0] for word in ("?", "easy", "hard")}
NO_WEIGHTS = Weights({}, np.zeros((0, 0), np.float32))
CONFIG = RolloutConfig(
  prompts=4,
  group=2,
  dynamic=3,
  max_new=2,
  updates=2,
  rows=2,
  width=8,
  reward=RewardConfig(format=0.0),
  advantage=AdvantageConfig(truncated="keep"),
)


class Scripted:
  """Says one word and stops; keeps the keys that it was given."""

  def __init__(self):
    self.keys: list[np.ndarray] = []

  def generate(self, weights, prompts, params, keys_B):
    self.keys.append(np.asarray(jax.random.key_data(keys_B)))
    count = len(prompts)
    tokens_BT = np.tile([WORDS["?"], params.stop[0]], (count, 1)).astype(np.int32)
    return Samples(
      tokens_BT=tokens_BT,
      logprobs_BT=np.full((count, 2), -1.0, np.float32),
      lengths_B=np.full(count, 2),
      stopped_B=np.ones(count, bool),
      experts=tuple(np.zeros((0, len(prompt) + 2, 1), np.int8) for prompt in prompts),
    )


class Moody:
  """Problems of which a share, by their number, divides its group; keeps the numbers drawn."""

  name = "moody"

  def __init__(self, share, size=None):
    self.share, self.size = share, size
    self.drawn: list[int] = []
    self._judged = 0

  def sample(self, split, index, seed, language=None):
    if self.size is not None and index >= self.size:
      raise IndexError(index)
    hard = stream(seed, split, index).random() < self.share
    self.drawn.append(index)
    return Problem("hard ?" if hard else "easy ?", task=self.name, key=str(index), data=hard)

  def score(self, problem, text):
    self._judged += 1
    return Score(float(self._judged % 2) if problem.data else 1.0, 1.0, 1.0)


def roll(task, iteration=0, engine=None, seed=0, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  return roll_out(engine or Scripted(), NO_WEIGHTS, task, TOKENIZER, config, seed, iteration)


def keys_of(rollout):
  return [int(one.problem.key) for one in rollout.completions[:: CONFIG.group]]


def used(rollout):
  """Numbers of the problems whose groups entered an update."""
  used_B = rollout.advantages.kept_BJ.any(axis=1)
  return [key for key, is_used in zip(keys_of(rollout), used_B, strict=True) if is_used]


def test_rounds_go_on_until_enough_groups_tell():
  got = roll(Moody(0.5))
  hard = [int(c.problem.key) for c in got.completions[::2] if c.problem.data]
  rounds = int(got.report["rounds"])
  assert 1 < rounds < 4 and len(hard) >= 4 and got.report["prompts_drawn"] == 4 * rounds
  before = [c for c in got.completions[:: CONFIG.group][: 4 * (rounds - 1)] if c.problem.data]
  assert len(before) < 4, "a round before had been enough"
  assert used(got) == hard[:4], "the first that tell, in the order drawn"
  assert got.report["dropped"] == 1 - 4 / (4 * rounds)
  assert got.report["zero_variance"] == 1 - len(hard) / (4 * rounds)
  sampled = sum(np.count_nonzero(u.batch.batch.loss_mask_BT) for u in got.updates)
  assert sampled == 4 * CONFIG.group * 2 and len(got.updates) == 2
  for update in got.updates:
    np.testing.assert_allclose(update.batch.weight_BT.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize(("share", "rounds", "groups"), [(0.0, 4, 0), (1.0, 1, 4)])
def test_the_bound_holds_and_a_full_first_round_is_enough(share, rounds, groups):
  got = roll(Moody(share))
  assert got.report["rounds"] == rounds and len(used(got)) == groups
  assert len(got.updates) == min(groups, 2)


@pytest.mark.parametrize("size", [None, 7])
def test_the_first_round_is_the_whole_rollout_without(size):
  for iteration in range(3):
    engine = Scripted()
    without = roll(Moody(0.5, size), iteration, engine, dynamic=0)
    with_it = roll(Moody(0.5, size), iteration, engine)
    np.testing.assert_array_equal(engine.keys[0], engine.keys[1])
    assert keys_of(with_it)[: CONFIG.prompts] == keys_of(without)
    assert not {"rounds", "prompts_drawn", "dropped"} & without.report.keys()


def test_no_problem_is_drawn_twice_and_the_main_stream_has_no_gap():
  task, engine = Moody(0.2), Scripted()
  rollouts = [roll(task, iteration, engine) for iteration in range(6)]
  assert len(set(task.drawn)) == len(task.drawn)
  main = [key for rollout in rollouts for key in keys_of(rollout)[: CONFIG.prompts]]
  assert main == list(range(24))
  assert min(set(task.drawn) - set(main)) >= 2**30
  keys = np.concatenate(engine.keys)
  assert len(np.unique(keys, axis=0)) == len(keys), "no two samples share their random numbers"


def test_an_iteration_depends_on_nothing_before_it():
  """What was drawn, kept and packed is the same in a process that begins there."""
  engine, task = Scripted(), Moody(0.3)
  for iteration in range(4):
    engine.keys.clear()
    there = roll(task, iteration, engine)
  afresh = Scripted()
  here = roll(Moody(0.3), 3, afresh)
  np.testing.assert_array_equal(np.concatenate(engine.keys), np.concatenate(afresh.keys))
  assert keys_of(there) == keys_of(here) and there.report == here.report
  for a, b in zip(there.updates, here.updates, strict=True):
    assert a.micro_batches == b.micro_batches
    jax.tree.map(np.testing.assert_array_equal, a.batch, b.batch)


def test_a_task_that_ends_is_gone_through_again():
  got = roll(Moody(0.0, size=3))
  assert got.report["prompts_drawn"] == 16 and set(keys_of(got)) == {0, 1, 2}


def test_surplus_groups_lose_their_advantages():
  rewards_BJ = np.array([[0.0, 1], [1, 1], [1, 0], [0, 1]])
  none_BJ = np.zeros(rewards_BJ.shape, bool)
  halves = [
    group_advantages(rewards_BJ[part], none_BJ[part], AdvantageConfig())
    for part in (slice(2), slice(2, 4))
  ]
  got = first_groups(halves, 2)
  assert got.kept_BJ.tolist() == [[True] * 2, [False] * 2, [True] * 2, [False] * 2]
  np.testing.assert_allclose(got.advantage_BJ, [[-1, 1], [0, 0], [1, -1], [0, 0]], atol=1e-5)
  assert got.zero_variance == 1


def test_fewer_rounds_than_none_are_refused():
  with pytest.raises(ConfigError, match="rollout.dynamic is -1"):
    RolloutConfig(dynamic=-1)
