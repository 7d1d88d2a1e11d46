"""A bandit: the smallest task and model that reinforcement runs end to end on."""

import jax

from deepseek_jax.config import MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.data.word_tokenizer import WordTokenizer, mini_words
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.rl.advantages import AdvantageConfig
from deepseek_jax.rl.rewards import RewardConfig
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.rl.trainer import Reinforcement, RLConfig
from deepseek_jax.tasks.task import Problem, Score
from deepseek_jax.train import grpo
from deepseek_jax.train.loop import Position
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import init_state

CONTROL = mini_words()[: mini_words().index("<think>")]
TOKENIZER = WordTokenizer((*CONTROL, "?", "a", "b", "c", "d", "e"))
MODEL = Transformer(
  ModelConfig(
    vocab=TOKENIZER.vocab_size,
    d_model=16,
    layers=1,
    heads=2,
    dense_ff=16,
    attention=MLAConfig(kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
    moe=MoEConfig(experts=4, top_k=2, expert_ff=8, dense_layers=0),
    mtp_depth=1,
    max_context=32,
  )
)
TX = make_optimizer(OptimizerConfig(weight_decay=0.0))
CONFIG = RLConfig(
  rollout=RolloutConfig(
    prompts=4,
    group=8,
    max_new=4,
    updates=2,
    rows=4,
    width=16,
    reward=RewardConfig(format=0.0),
    advantage=AdvantageConfig(truncated="keep"),
  ),
  peak=3e-2,
  final=1.0,
  kl_weight=0.01,
  reference_every=6,
)


class Bandit:
  """A finite task: the share of the answer's words that are the wanted one."""

  name = "bandit"

  def sample(self, split, index, seed, language=None):
    if index >= 3:
      raise IndexError(index)
    return Problem(prompt=f"{'abc'[index]} ?", task=self.name, key=str(index))

  def score(self, problem, text):
    words = text.split()
    return Score(words.count("d") / max(len(words), 1), 1.0, 1.0)


def compile_parts():
  """Weights on the host, and what is compiled for all stages of a file."""
  weights = jax.jit(lambda key: init_weights(MODEL, key))(jax.random.key(0))
  return {
    "weights": jax.device_get(weights),
    "update": grpo.make_step(MODEL, TX, grpo.GRPOConfig()),
    "score": grpo.make_scorer(MODEL, grpo.GRPOConfig()),
    "engine": SlotEngine(MODEL, slots=32),
  }


def make_stage(compiled, iterations=12, **fields) -> Reinforcement:
  parts = {name: compiled[name] for name in ("update", "score", "engine")}
  given = {"config": CONFIG, "seed": 0, "task": Bandit(), **fields}
  return Reinforcement(**parts, tokenizer=TOKENIZER, iterations=iterations, **given)


def begin(compiled):
  weights = jax.tree.map(jax.numpy.array, compiled["weights"])
  return jax.jit(lambda w: init_state(w, TX, reference=True))(weights)


def iterate(stage, state, first, last):
  """States after, and records of, iterations first to last - 1."""
  records = []
  for i in range(first, last):
    fed = stage.feed(Position(step=i), state)
    state, metrics = stage.step(state, fed.batch, fed.knobs)
    records.append({**{k: float(v) for k, v in metrics.items()}, **fed.metrics})
  return state, records
