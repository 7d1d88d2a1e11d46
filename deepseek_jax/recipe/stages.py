"""How each kind of stage turns a position in its run into batches and knobs for the loop.

A `Course` is what the loop needs of a stage: how many steps, the step function, and the feed. Both
are pure in the stage's position, so a killed stage continues as if it had not been.
"""

import dataclasses
from collections.abc import Sequence

import jax

from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document, Sample, make_sample
from deepseek_jax.data.pipeline import open_batches
from deepseek_jax.data.samples import SampleBatches
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import PretrainStage, ReinforceStage, TuneStage
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.learned_reward import open_judge
from deepseek_jax.rl.trainer import Reinforcement
from deepseek_jax.sharding import shard_batch
from deepseek_jax.tasks.task import Task
from deepseek_jax.train.loop import Feed, FeedFn, Position, StepFn
from deepseek_jax.train.pretrain import PretrainKnobs
from deepseek_jax.train.schedule import CosineSchedule, warmup_cosine
from deepseek_jax.train.state import TrainState
from deepseek_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Course:
  """A stage as the loop sees it."""

  steps: int
  step: StepFn
  feed: FeedFn


def pretraining(
  stage: PretrainStage,
  machinery: Machinery,
  tokenizer: Tokenizer,
  task: str,
  seed: int,
  position: Position,
) -> Course:
  """Worked solutions, packed; continues behind `position`."""
  data = DataConfig(
    source="problems",
    task=task,
    batch=stage.batch,
    length=stage.length,
    packing=stage.packing,
    seed=seed,
  )
  batches = open_batches(data, tokenizer)
  schedule = CosineSchedule(
    peak=stage.rate, warmup=stage.warmup, speed=stage.bias_speed, mtp=stage.mtp
  )
  if position.data is not None:
    batches.set_state(position.data)

  def feed(position: Position, state: TrainState) -> Feed:
    at = schedule.at(position.step, position.tokens, stage.steps)
    batch = next(batches)
    knobs = PretrainKnobs(
      learning_rate=at.learning_rate,
      bias_speed=at.bias_speed,
      mtp_weight=at.mtp_weight,
      balance_weight=stage.balance_weight,
    )
    return Feed(
      shard_batch(machinery.mesh, _micro(batch)), knobs, batch.tokens_BT.size, batches.get_state()
    )

  return Course(stage.steps, machinery.text_step, feed)


def tuning(
  stage: TuneStage,
  machinery: Machinery,
  tokenizer: Tokenizer,
  samples: Sequence[Sample],
  seed: int,
) -> Course:
  """Epochs over kept samples, hidden from one another, with loss on the answers."""
  batches = SampleBatches(
    samples, stage.batch, stage.length, tokenizer.pad_id, seed, epochs=stage.epochs
  )
  steps = len(batches)

  def feed(position: Position, state: TrainState) -> Feed:
    knobs = PretrainKnobs(
      learning_rate=warmup_cosine(position.step, steps, stage.rate, stage.warmup, 0.1),
      bias_speed=stage.bias_speed,
      mtp_weight=stage.mtp_weight,
      balance_weight=stage.balance_weight,
    )
    batch = batches[position.step]
    return Feed(shard_batch(machinery.mesh, _micro(batch)), knobs, batch.tokens_BT.size)

  return Course(steps, machinery.text_step, feed)


def reinforcement(
  stage: ReinforceStage,
  machinery: Machinery,
  tokenizer: Tokenizer,
  task: Task,
  seed: int,
  clock: Clock,
) -> Course:
  """A rollout and its updates are one step of the loop, and told apart by the clock."""
  job = Reinforcement(
    update=machinery.policy_step,
    score=machinery.score,
    engine=machinery.engine,
    task=task,
    tokenizer=tokenizer,
    config=stage.rl,
    iterations=stage.iterations,
    seed=seed,
    mesh=machinery.mesh,
    judge=open_judge(stage.rl.rollout),
  )

  def feed(position: Position, state: TrainState) -> Feed:
    jax.block_until_ready(state)  # an update under way is training, not sampling
    with clock("sampling"):
      return job.feed(position, state)

  return Course(stage.iterations, job.step, feed)


def samples_of(completions: Sequence[Completion], tokenizer: Tokenizer) -> list[Sample]:
  """Kept completions as samples to learn from."""
  return [
    make_sample(tokenizer, Document(text=" " + c.text, prompt=c.problem.prompt))
    for c in completions
  ]


def _micro(batch: Batch) -> Batch:
  """A batch as the only micro-batch of a step."""
  return jax.tree.map(lambda x: x[None], batch)
