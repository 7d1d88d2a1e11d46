"""A trial sees what the run's own iterations would, and does not need their size or rewards."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.rl.advantages import AdvantageConfig
from deepseek_jax.rl.grpo_job import GRPOJob
from deepseek_jax.rl.preflight import headroom, samples, verdict
from deepseek_jax.rl.preflight.samples import turn_finding
from deepseek_jax.rl.preflight.stand_ins import Unjudged
from deepseek_jax.rl.preflight.trial import try_job
from deepseek_jax.rl.rewards import SCORED
from deepseek_jax.rl.rollout import RolloutConfig, roll_out
from deepseek_jax.rl.trainer import RLConfig
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.loop import LoopConfig
from deepseek_jax.train.optimizer import make_optimizer
from deepseek_jax.train.start import first_state

JOB = GRPOJob(
  model=ModelConfig(
    vocab=load_tokenizer("word").vocab_size,
    d_model=16,
    layers=1,
    heads=2,
    dense_ff=16,
    attention=MLAConfig(kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
    moe=MoEConfig(experts=4, top_k=2, expert_ff=8, dense_layers=0),
    mtp_depth=1,
    max_context=32,
  ),
  train=LoopConfig(steps=7),
  rl=RLConfig(
    rollout=RolloutConfig(prompts=4, group=4, max_new=4, updates=2, rows=2, width=16),
    kl_weight=0.01,
  ),
  task="tests.positive_task:Positive",
  engine_batch=16,
)


def true_rollouts(job, numbers=(0, 1)):
  """What the run would sample if its weights stayed: reports and completions."""
  tokenizer, task = load_tokenizer(job.tokenizer), load_task(job.task)
  model, tx = Transformer(job.model, job.compute), make_optimizer(job.optimizer)
  weights = first_state(model, tx, job.seed).weights
  engine = SlotEngine(model, job.engine_batch)
  return [roll_out(engine, weights, task, tokenizer, job.rl.rollout, job.seed, i) for i in numbers]


@pytest.fixture(scope="module")
def tried():
  return try_job(JOB)


def test_the_samples_are_those_of_the_first_two_iterations(tried):
  trial, rollouts = tried[1], true_rollouts(JOB)
  completions = [c for rollout in rollouts for c in rollout.completions]
  np.testing.assert_array_equal(trial.lengths_PJ.ravel(), [len(c.tokens) for c in completions])
  np.testing.assert_array_equal(trial.correct_PJ.ravel(), [c.score.correct for c in completions])
  np.testing.assert_array_equal(trial.truncated_PJ.ravel(), [c.truncated for c in completions])
  mean = samples.reward_finding(trial, JOB.rl.rollout.advantage).values["mean"]
  assert mean == pytest.approx(np.mean([rollout.report["reward"] for rollout in rollouts]))
  means = trial.rewards_PJ.reshape(2, -1).mean(axis=1)
  np.testing.assert_allclose(means, [rollout.rewards.total_BJ.mean() for rollout in rollouts])
  assert trial.gold.answered == 0 and trial.gold.problems == len(
    {c.problem.key for c in completions}
  )


def test_updates_are_whole_however_little_is_learnt(tried):
  trial = tried[1]
  assert trial.update["updates"] == 2 and trial.update["mismatch"] < 1e-4
  assert trial.update["trained_tokens"] == trial.lengths_PJ[:4].sum()
  assert all(turn.updating > 0 for turn in trial.turns) and trial.scale == 1
  assert trial.compiling > 0 and trial.peak > 10**8


def test_more_problems_are_more_rollouts_and_fewer_are_smaller_ones(tried):
  more = try_job(JOB, 10)[1]
  assert [turn.updating is None for turn in more.turns] == [False, False, True]
  assert more.correct_PJ.shape == (12, 4) and more.scale == 1
  np.testing.assert_array_equal(more.lengths_PJ[:8], tried[1].lengths_PJ)
  fewer = try_job(JOB, 2)[1]
  assert fewer.correct_PJ.shape == (2, 4) and fewer.scale == 4
  np.testing.assert_array_equal(fewer.lengths_PJ[0], tried[1].lengths_PJ[0])
  with pytest.raises(ConfigError, match="--preflight_prompts is 1; give at least 2"):
    try_job(JOB, 1)


def test_other_forms_of_the_objective_are_tried():
  """Prompts shared, no reference, and what is cut off masked, of which nothing would be left."""
  rollout = dataclasses.replace(
    JOB.rl.rollout,
    share_prompts=True,
    max_new=1,
    advantage=AdvantageConfig(truncated="mask", normalisation="constant"),
  )
  job = dataclasses.replace(JOB, rl=RLConfig(rollout=rollout, epochs=2))
  found, trial = try_job(job, 4)
  assert found.reference == 0 and trial.truncated_PJ.mean() > 0.8
  assert trial.update["updates"] == 4 and trial.update["trained_tokens"] == 2 * 2 * 4


def test_nothing_is_tried_where_the_memory_does_not_suffice(monkeypatch):
  monkeypatch.setattr(headroom, "available_bytes", lambda devices: 10**5)
  told = verdict.judge(JOB)
  assert told.untried and told.findings[0].values["peak"] > 10**5
  assert (told.level, [f.name for f in told.findings]) == ("red", ["memory"])
  assert "nothing else was tried" in told.text()


def test_headroom_counts_what_there_is(tried):
  model, tx = Transformer(JOB.model, JOB.compute), make_optimizer(JOB.optimizer)
  state = first_state(model, tx, JOB.seed, reference=True)
  sizes = {
    n: sum(x.nbytes for x in jax.tree.leaves(t)) for n, t in vars(state).items() if t is not None
  }
  found = tried[0]
  assert found.weights == found.reference == sizes["weights"]
  assert found.moments == sizes["opt_state"]
  assert found.temporaries > found.gradients > 0.9 * found.weights
  engine = SlotEngine(model, JOB.engine_batch)
  prepared = sum(x.nbytes for x in jax.tree.leaves(engine._prepared(state.weights)))
  assert found.prepared == pytest.approx(prepared, rel=0.05)


def test_a_longer_batch_needs_more_for_its_update(tried, monkeypatch):
  monkeypatch.setattr(headroom, "available_bytes", lambda devices: 0)  # it is only compiled
  rollout = dataclasses.replace(JOB.rl.rollout, rows=8, width=32)
  longer = dataclasses.replace(JOB, rl=dataclasses.replace(JOB.rl, rollout=rollout))
  assert try_job(longer)[0].temporaries > 1.5 * tried[0].temporaries


@pytest.mark.parametrize("samples", [1, 16, 17, 64, 65, 300])
def test_rows_are_those_of_the_engine(samples):
  sizes = SlotEngine(Transformer(JOB.model), 256)._sizes
  wanted = min((s for s in sizes if s >= samples), default=sizes[0])
  assert headroom.sampled_rows(samples, 256) == wanted


@pytest.mark.slow
def test_a_mesh_is_tried_as_it_is_trained_on():
  rollout = dataclasses.replace(JOB.rl.rollout, rows=8)
  spread = dataclasses.replace(
    JOB,
    mesh=MeshConfig(data=2, fsdp=2, expert=2),
    rl=dataclasses.replace(JOB.rl, rollout=rollout),
  )
  found, trial = try_job(spread, 2)
  assert trial.update["updates"] == 1 and np.isfinite(trial.update["grad_norm"])
  assert found.weights < try_job(dataclasses.replace(spread, mesh=MeshConfig()), 2)[0].weights


@pytest.mark.parametrize(
  ("meminfo", "limits", "wanted"),
  [
    ("MemTotal: 9 kB\nMemAvailable:    2000000 kB", [], 2_048_000_000),
    ("MemAvailable: 2000000 kB", ["max"], 2_048_000_000),
    ("MemAvailable: 2000000 kB", ["1000000"], 1_000_000),
  ],
)
def test_the_memory_there_is(tmp_path, monkeypatch, meminfo, limits, wanted):
  (tmp_path / "meminfo").write_text(meminfo)
  paths = [tmp_path / f"limit{i}" for i in range(len(limits))]
  for path, text in zip(paths, limits, strict=True):
    path.write_text(text)
  monkeypatch.setattr(headroom, "_MEMINFO", tmp_path / "meminfo")
  monkeypatch.setattr(headroom, "_LIMITS", paths)
  own = headroom.available_bytes() - wanted
  assert own == 0 if limits == ["1000000"] else 0 < own <= headroom.peak_bytes()
  assert headroom.available_bytes(2) == pytest.approx((wanted + own) / 2, rel=0.01)


def test_a_verdict_is_read_by_programs_and_people():
  told = verdict.judge(JOB, 2)
  read = json.loads(told.json())
  assert read["level"] == told.level and read["complete"]
  assert [f["name"] for f in read["findings"]] == [f.name for f in told.findings]
  lines = told.text().splitlines()
  assert "7 iterations of 4 prompts x 4 samples" in lines[0] and "2 problems x 4" in lines[0]
  assert lines[-1].startswith(f"{told.level}: ")


def test_a_task_that_answers_is_tried_in_turns():
  rollout = dataclasses.replace(JOB.rl.rollout, turns=2, max_new=26, width=32, group=16)
  job = dataclasses.replace(
    JOB,
    task="tests.positive_task:Insisting",
    rl=dataclasses.replace(JOB.rl, rollout=rollout),
  )
  trial, rollouts = try_job(job)[1], true_rollouts(job)
  completions = [c for rollout in rollouts for c in rollout.completions]
  np.testing.assert_array_equal(trial.lengths_PJ.ravel(), [c.sampled for c in completions])
  np.testing.assert_array_equal(trial.replies_PJ.ravel(), [len(c.replies) for c in completions])
  assert trial.update["mismatch"] < 1e-4
  finding = turn_finding(trial, 2)
  assert finding.level == "green" and finding.values["most"] == 2
  assert finding.values["reply_tokens"] == pytest.approx(2 * trial.replies_PJ.mean())
  with pytest.raises(ConfigError, match="rl.rollout.turns is 1; set it to the most turns"):
    try_job(dataclasses.replace(job, rl=JOB.rl))


def test_what_stands_in_for_a_task_lacks_no_figure_that_may_be_weighed():
  score = Unjudged("x").score(Unjudged("x").sample("train", 0, 0), "")
  assert all(getattr(score, name) == 0 for name in SCORED)
