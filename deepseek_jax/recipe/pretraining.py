"""The stages that make a base: pre-training on worked solutions."""

from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.pipeline import open_batches
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.config import PretrainStage
from deepseek_jax.recipe.course import Course, only_micro
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.sharding import shard_batch
from deepseek_jax.train.loop import Feed, Position
from deepseek_jax.train.pretrain import PretrainKnobs
from deepseek_jax.train.schedule import CosineSchedule
from deepseek_jax.train.state import TrainState


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
      shard_batch(machinery.mesh, only_micro(batch)),
      knobs,
      batch.tokens_BT.size,
      batches.get_state(),
    )

  return Course(stage.steps, machinery.text_step, feed)
