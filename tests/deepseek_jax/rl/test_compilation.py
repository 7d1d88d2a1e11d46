"""A run of reinforcement compiles all it needs in its first iterations."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.config import GQAConfig, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.data.word_tokenizer import WordTokenizer, mini_words
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.rl.advantages import AdvantageConfig
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.rl.trainer import Reinforcement, RLConfig
from deepseek_jax.tasks.task import Problem, Score
from deepseek_jax.train import grpo
from deepseek_jax.train.loop import Position
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import init_state

TOKENIZER = WordTokenizer((*mini_words()[: mini_words().index("<think>")], "?", "a", "b", "c"))
DENSE = ModelConfig(
  vocab=TOKENIZER.vocab_size,
  d_model=16,
  layers=2,
  heads=2,
  dense_ff=16,
  attention=GQAConfig(kv_heads=1, head_dim=8),
  tied=True,
  max_context=64,
)
EXPERTS = dataclasses.replace(
  DENSE,
  layers=1,
  attention=MLAConfig(kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=4, top_k=2, expert_ff=8, dense_layers=0),
  mtp_depth=1,
  tied=False,
)
CONFIG = RLConfig(
  rollout=RolloutConfig(
    prompts=4, group=8, max_new=12, updates=2, rows=4, width=32,
    advantage=AdvantageConfig(truncated="keep"),
  ),
  peak=1e-2,
)  # fmt: skip
FULL = dataclasses.replace(
  CONFIG,
  rollout=dataclasses.replace(CONFIG.rollout, dynamic=1),
  correction="token",
  largest_gap=1.0,
)
ITERATIONS = 20


class Lengths:
  """Prompts of 2 to 12 words, and answers that end early more and more often."""

  name = "lengths"

  def sample(self, split, index, seed, language=None):
    words = np.random.default_rng([seed, index]).choice(list("abc"), 1 + index % 11)
    return Problem(prompt=" ".join([*words, "?"]), task=self.name, key=str(index))

  def score(self, problem, text):
    return Score(1.0 / (1 + len(text.split())), 1.0, 1.0)


@pytest.mark.parametrize(
  ("config", "rl"),
  [(DENSE, CONFIG), (EXPERTS, CONFIG), (DENSE, FULL)],
  ids=["dense", "experts", "corrected"],
)
def test_nothing_is_compiled_after_the_third_iteration(config, rl):
  model, tx = Transformer(config), make_optimizer(OptimizerConfig(weight_decay=0.0))
  stage = Reinforcement(
    update=grpo.make_step(model, tx, grpo.GRPOConfig()),
    score=grpo.make_scorer(model, grpo.GRPOConfig()),
    engine=SlotEngine(model, slots=32),
    task=Lengths(),
    tokenizer=TOKENIZER,
    config=rl,
    iterations=ITERATIONS,
    seed=0,
  )
  state = jax.jit(lambda key: init_state(init_weights(model, key), tx))(jax.random.key(0))
  compiled: list[int] = []

  def heard(event: str, _seconds: float, **_kwargs) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(iteration)

  jax.monitoring.register_event_duration_secs_listener(heard)
  try:
    for iteration in range(ITERATIONS):
      fed = stage.feed(Position(iteration), state)
      state, metrics = stage.step(state, fed.batch, fed.knobs)
  finally:
    jax.monitoring.unregister_event_duration_listener(heard)
  assert compiled and float(metrics["updates"]) > 0
  assert not [i for i in compiled if i > 2], compiled
