"""The stages that learn answers: cold start, second SFT and distillation."""

from collections.abc import Sequence

from deepseek_jax.data.document import Sample
from deepseek_jax.data.samples import SampleBatches
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.config import TuneStage
from deepseek_jax.recipe.course import Course, only_micro
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.sharding import shard_batch
from deepseek_jax.train.loop import Feed, Position
from deepseek_jax.train.pretrain import PretrainKnobs
from deepseek_jax.train.schedule import warmup_cosine
from deepseek_jax.train.state import TrainState


def tuning(
  stage: TuneStage,
  machinery: Machinery,
  tokenizer: Tokenizer,
  samples: Sequence[Sample],
  seed: int,
) -> Course:
  """Epochs over samples, hidden from one another, with loss on the answers."""
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
    return Feed(shard_batch(machinery.mesh, only_micro(batch)), knobs, batch.tokens_BT.size)

  return Course(steps, machinery.text_step, feed)
