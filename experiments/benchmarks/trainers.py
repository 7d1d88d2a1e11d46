"""Contenders of the training benchmark.

Both train the same architecture on the same tokens with clipping and AdamW. Ours is the very step
of `experiments.pretrain`, router bias and sequence loss on, MTP off; transformers has neither of
the former, and gets torch's fused AdamW. Each has the environment its own users start it with.
"""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from deepseek_jax.config import ComputeConfig, ModelConfig
from experiments.benchmarks.contender import Turn

LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 3e-4, 0.1, 1.0


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is trained, and on how many tokens at a time."""

  model: ModelConfig
  batch: int
  length: int
  seed: int = 0
  remat: str = "none"  # of our model; a long row's activations do not fit twice into 24 GB

  @property
  def tokens(self) -> int:
    """Tokens of one step."""
    return self.batch * self.length


def tokens_BT(shape: Shape) -> np.ndarray:
  """Random tokens whose frequencies fall off as those of words do (Zipf), in mixed-up order."""
  rng = np.random.default_rng(shape.seed)
  share_V = 1 / np.arange(10, shape.model.vocab + 10)
  tokens = rng.choice(shape.model.vocab, (shape.batch, shape.length), p=share_V / share_V.sum())
  return rng.permutation(shape.model.vocab)[tokens].astype(np.int32)


def deepseek_jax_turn(shape: Shape) -> Turn:
  """Our step, compiled; the state lives in the closure, donated from step to step."""
  import jax
  import jax.numpy as jnp

  from deepseek_jax.model.transformer import Transformer, init_weights
  from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
  from deepseek_jax.train.pretrain import PretrainKnobs, make_step
  from deepseek_jax.train.state import init_state
  from deepseek_jax.types import Batch

  compute = ComputeConfig(remat=shape.remat)
  model = Transformer(dataclasses.replace(shape.model, mtp_depth=0), compute)
  tx = make_optimizer(OptimizerConfig(weight_decay=WEIGHT_DECAY, clip_norm=CLIP_NORM))
  step = make_step(model, tx)
  state = jax.jit(lambda key: init_state(init_weights(model, key), tx))(jax.random.key(shape.seed))
  tokens = jnp.asarray(tokens_BT(shape))[None]
  positions = jnp.broadcast_to(jnp.arange(shape.length, dtype=jnp.int32), tokens.shape)
  ones = jnp.ones(tokens.shape)
  batch = Batch(tokens, positions, ones.astype(jnp.int32), ones)
  knobs = PretrainKnobs(LEARNING_RATE, bias_speed=1e-3, balance_weight=1e-4)

  def turn(steps: int) -> float:
    nonlocal state
    start = time.perf_counter()
    for _ in range(steps):
      state, _ = step(state, batch, knobs)
    jax.block_until_ready(state)
    return time.perf_counter() - start

  return turn


def transformers_turn(shape: Shape) -> Turn:
  """The training step one would write with transformers and torch."""
  import torch
  import transformers

  from deepseek_jax.hub.config_json import to_json

  fields = to_json(dataclasses.replace(shape.model, mtp_depth=0))
  kind = fields.pop("model_type")
  torch.manual_seed(shape.seed)
  config = transformers.AutoConfig.for_model(kind, **fields)
  model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True
  )
  tokens = torch.from_numpy(tokens_BT(shape)).long()

  def turn(steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
      model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
      optimizer.step()
      optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start

  return turn


CONTENDERS: dict[str, Callable[[Shape], Turn]] = {
  "deepseek_jax": deepseek_jax_turn,
  "transformers": transformers_turn,
}
