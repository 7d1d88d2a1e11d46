"""A trial of reinforcement with the start model: what an iteration gives, needs and takes.

Two or more rollouts are sampled from the model that the run would begin with, as its first
iterations would be: problems and samples depend on the config's seed and their number alone. Two
of them are learnt from, by a state that is then thrown away, in order to see an update's numbers
and its seconds. For that every group is given rewards that differ, so that an update is as long as
it can become, however little the true rewards teach. Nothing is written.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from deepseek_jax.compilation import watch
from deepseek_jax.config import require
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.grpo_job import GRPOJob, reinforcement
from deepseek_jax.rl.learned_reward import open_judge
from deepseek_jax.rl.preflight.headroom import (
  CompiledUpdate,
  Headroom,
  measure_headroom,
  peak_bytes,
)
from deepseek_jax.rl.preflight.stand_ins import Rewards, Silent, Timed, Unjudged
from deepseek_jax.rl.rollout import Rollout, Update
from deepseek_jax.rl.trainer import Reinforcement, RLConfig
from deepseek_jax.seeds import random_key
from deepseek_jax.sharding import make_mesh, shard_batch
from deepseek_jax.tasks.environment import check_turns
from deepseek_jax.tasks.gold import Gold, check_gold
from deepseek_jax.tasks.scoring import failures
from deepseek_jax.tasks.task import Problem
from deepseek_jax.train.adapting import first_adapted
from deepseek_jax.train.loop import Feed, Position
from deepseek_jax.train.optimizer import make_optimizer
from deepseek_jax.train.start import first_state, open_tokenizer
from deepseek_jax.train.state import TrainState, abstract_state, init_state
from deepseek_jax.types import Weights

_UPDATED = 2  # rollouts that are learnt from: one after which the heap has settled, and one more


@dataclasses.dataclass(frozen=True)
class Turn:
  """Seconds of one rollout; what was compiled meanwhile is told apart."""

  sampling: float
  scoring: float
  compiling: float
  updating: float | None = None  # None: it was not learnt from


@dataclasses.dataclass(frozen=True)
class Trial:
  """What was measured, of P problems with J samples each."""

  problems: tuple[Problem, ...]
  correct_PJ: np.ndarray
  said_PJ: np.ndarray  # right in whatever form; NaN where the task does not judge that
  format_PJ: np.ndarray
  language_PJ: np.ndarray
  rewards_PJ: np.ndarray
  truncated_PJ: np.ndarray
  lengths_PJ: np.ndarray  # tokens, the stop token included
  prompt_lengths_P: np.ndarray  # tokens
  left_out: int  # prompts too long
  failures: dict[str, int]  # of the verifier, by kind
  gold: Gold
  turns: tuple[Turn, ...]
  scale: float  # samples of an iteration of the run, for each of a rollout here
  compiling: float  # seconds, the update's included
  update: dict[str, float]  # metrics of the first update
  formless: str  # a sample that has not the form the verifier reads; "" if all have
  peak: int  # bytes that this process has held
  replies_PJ: np.ndarray | None = None  # of the task to what was said, of a task that answers
  reply_tokens_PJ: np.ndarray | None = None


def try_job(
  job: GRPOJob, problems: int | None = None, weights: Weights | None = None, sample: bool = True
) -> tuple[Headroom, Trial | None]:
  """Measures a job on `problems` problems, by default those of two iterations.

  It begins with `weights`, or else as the job says. Without a Trial where the memory does not
  suffice, for it would end the process, and where nothing is to be sampled.

  Raises:
    ConfigError: as the job itself would.
  """
  problems = _UPDATED * job.rl.rollout.prompts if problems is None else problems
  require(
    problems >= _UPDATED,
    f"--preflight_prompts is {problems}; give at least {_UPDATED}, one for each of two rollouts.",
  )
  tokenizer, task = open_tokenizer(job.tokenizer), open_task(job.task)
  check_turns(task, job.rl.rollout.turns, "rl.rollout.turns")
  require(
    tokenizer.vocab_size <= job.model.vocab,
    f"model.vocab is {job.model.vocab}, but the tokenizer has {tokenizer.vocab_size} ids.",
  )
  mesh = make_mesh(job.mesh) if job.mesh.devices > 1 else None
  model, tx = Transformer(job.model, job.compute, mesh), make_optimizer(job.optimizer)
  stage = reinforcement(job, model, tx, task, tokenizer, open_judge(job.rl.rollout))
  key, with_reference = random_key(job.seed), job.rl.kl_weight > 0
  state = first_adapted(model, tx, job.seed, job.init, job.lora) if job.lora else None
  abstract = abstract_state(
    lambda: state or init_state(init_weights(model, key), tx, reference=with_reference), mesh
  )
  _say("compiling an update, to see the memory it needs")
  update = _compiled(stage, model, abstract)
  headroom = measure_headroom(model, abstract, update, job.rl.rollout, job.engine_batch)
  if not sample or not headroom.suffices:
    return headroom, None
  state = state or first_state(model, tx, job.seed, job.init, weights, reference=with_reference)
  return headroom, _trial(dataclasses.replace(stage, update=update), state, problems, update)


def _compiled(stage: Reinforcement, model: Transformer, state: TrainState) -> CompiledUpdate:
  """The update, compiled for a rollout of which every sample is as long as may be."""
  silent = dataclasses.replace(
    stage,
    engine=Silent(model),
    task=Unjudged(stage.task.name),
    config=_telling(stage, stage.config.rollout.prompts),
    transform=Rewards(),
  )
  fed = silent.feed(Position(), state)
  batch = shard_batch(stage.mesh, fed.batch[1].updates[0].batch)
  knobs = dataclasses.replace(fed.knobs, micro_batches=0)
  return CompiledUpdate(stage.update, state, batch, knobs, time.monotonic)


def _telling(stage: Reinforcement, prompts: int) -> RLConfig:
  """The stage's config with rollouts of so many prompts, of which no sample is left out."""
  rollout = stage.config.rollout
  advantage = dataclasses.replace(rollout.advantage, truncated="keep")
  updates = min(rollout.updates, prompts)
  return dataclasses.replace(
    stage.config,
    rollout=dataclasses.replace(rollout, prompts=prompts, updates=updates, advantage=advantage),
  )


def _trial(stage: Reinforcement, state: TrainState, problems: int, update: CompiledUpdate) -> Trial:
  """Samples with the state's weights, then gives it away to a few updates."""
  prompts, shape = stage.config.rollout.prompts, stage.config.rollout.shape
  count = max(_UPDATED, -(-problems // prompts))
  size = -(-problems // count)
  timed, rewards = Timed(stage.task), Rewards()
  drawn: list[Completion] = []
  stage = dataclasses.replace(
    stage,
    task=timed,
    config=_telling(stage, size),
    transform=rewards,
    observe=lambda _, rollout: drawn.extend(rollout.completions),
  )
  turns, fed, left_out, before = [], [], 0.0, watch().seconds
  for number in range(count):
    _say(f"sampling {size * stage.config.rollout.group} completions, {number + 1} of {count}")
    feed, turn = _sampled(stage, state, number, timed)
    turns.append(turn)
    fed.append(feed)
    left_out += feed.metrics.get("left_out", 0.0)
  metrics: dict[str, float] = {}
  for number, feed in enumerate(fed[:_UPDATED]):
    _say(f"learning from them, {number + 1} of {_UPDATED}")
    rollout = _padded(feed.batch[1], shape[0])
    began, compiled = time.monotonic(), watch().seconds
    state, found = stage.step(state, (number, rollout), feed.knobs)
    jax.block_until_ready((state, found))
    compiled = watch().seconds - compiled
    seconds = max(0.0, time.monotonic() - began - compiled)
    turns[number] = dataclasses.replace(turns[number], updating=seconds)
    metrics = metrics or {name: float(value) for name, value in found.items()}
  group = stage.config.rollout.group
  return Trial(
    problems=tuple(completion.problem for completion in drawn[::group]),
    **_by_problem(drawn, group),
    rewards_PJ=np.concatenate(rewards.given),
    prompt_lengths_P=np.array([len(completion.prompt) for completion in drawn[::group]]),
    left_out=int(left_out),
    failures=failures([completion.score for completion in drawn]),
    gold=check_gold(timed.task, [completion.problem for completion in drawn[::group]]),
    turns=tuple(turns),
    scale=prompts / size,
    compiling=update.seconds + watch().seconds - before,
    update=metrics,
    formless=next((completion.text for completion in drawn if not completion.score.format), ""),
    peak=peak_bytes(),
  )


def _sampled(
  stage: Reinforcement, state: TrainState, number: int, task: Timed
) -> tuple[Feed, Turn]:
  """A rollout, and its seconds."""
  began, compiled, scored = time.monotonic(), watch().seconds, task.seconds
  feed = stage.feed(Position(step=number), state)
  compiled, scored = watch().seconds - compiled, task.seconds - scored
  sampling = max(0.0, time.monotonic() - began - compiled - scored)
  return feed, Turn(sampling, scored, compiled)


def _padded(rollout: Rollout, micro_batches: int) -> Rollout:
  """The rollout with batches of so many micro-batches, those added being empty."""

  def pad(x: Any) -> np.ndarray:
    return np.pad(x, [(0, micro_batches - len(x)), *[(0, 0)] * (np.ndim(x) - 1)])

  updates = [Update(jax.tree.map(pad, u.batch), u.micro_batches) for u in rollout.updates]
  return dataclasses.replace(rollout, updates=updates)


def _by_problem(completions: Sequence[Completion], group: int) -> dict[str, np.ndarray]:
  """The fields of a Trial that completions have, which lie problem by problem."""

  def spread(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, group)

  return {
    "correct_PJ": spread([c.score.correct for c in completions]),
    "said_PJ": spread([np.nan if c.score.said is None else c.score.said for c in completions]),
    "format_PJ": spread([c.score.format for c in completions]),
    "language_PJ": spread([c.score.language for c in completions]),
    "truncated_PJ": spread([c.truncated for c in completions]),
    "lengths_PJ": spread([c.sampled for c in completions]),
    "replies_PJ": spread([len(c.replies) for c in completions]),
    "reply_tokens_PJ": spread([len(c.tokens) - c.sampled for c in completions]),
  }


def _say(line: str) -> None:
  print(f"preflight: {line}", file=sys.stderr, flush=True)
