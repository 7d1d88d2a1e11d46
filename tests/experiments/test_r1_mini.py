"""A control of configs/r1_mini.py: what its first reinforcement gains comes from the rewards."""

import dataclasses

import pytest

from configs import r1_mini
from deepseek_jax.evaluate.estimators import paired_difference
from deepseek_jax.evaluate.evaluation import Protocol, evaluate_each, standard_protocols
from deepseek_jax.recipe.job import r1_config
from deepseek_jax.recipe.run import Run
from deepseek_jax.rl.rewards import permuted
from deepseek_jax.rl.trainer import Reinforcement
from deepseek_jax.train.loop import Position

ITERATIONS = 30


def mini(tmp_path):
  """A run of r1_mini whose base is trained, and which is measured only here."""
  config = r1_mini.get_config()
  config.evaluation.update(problems=1, samples=1)
  run = Run(r1_config(config.to_dict()), tmp_path)
  next(run.stages())
  return run


def reinforced(run, transform):
  """The base after some iterations of R1-Zero, its rewards transformed."""
  machine = run.machine("r1_zero")
  stage = Reinforcement(
    update=machine.policy_step,
    score=machine.score,
    engine=machine.engine,
    task=run.task("r1_zero"),
    tokenizer=run.origins["r1_zero"].tokenizer,
    config=run.config.r1_zero.rl,
    iterations=ITERATIONS,
    seed=1,
    transform=transform,
  )
  state, position = machine.fresh(1, run.weights("base"), False), Position()
  for step in range(ITERATIONS):
    feed = stage.feed(position, state)
    state, _ = stage.step(state, feed.batch, feed.knobs)
    position = dataclasses.replace(position, step=step + 1)
  return state.weights


@pytest.mark.slow
def test_permuted_rewards_gain_nothing(tmp_path):
  run = mini(tmp_path)
  machine, tokenizer = run.machine("r1_zero"), run.origins["r1_zero"].tokenizer

  def solved(weights):
    """Each held-out problem's share of right samples, by protocol."""
    protocols = standard_protocols(Protocol(run.config.task))
    measured = evaluate_each(machine.engine, weights, tokenizer, run.task("r1_zero"), protocols)
    return [each.correct_PJ.mean(axis=1) for each in measured]

  before = solved(machine.place(run.weights("base")))
  real, control = (solved(reinforced(run, transform)) for transform in (None, permuted(0)))
  for before_P, real_P, control_P in zip(before, real, control, strict=True):
    gain, chance = paired_difference(real_P, before_P), paired_difference(control_P, before_P)
    print("true rewards", gain, "permuted", chance)
    assert gain.low > 0.1
    assert chance.low <= 0 and chance.value < gain.value / 3
