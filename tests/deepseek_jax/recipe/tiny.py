"""The smallest recipe: a teacher and a student of one layer, which learn next to nothing."""

import json

import jax

from deepseek_jax.config import GQAConfig, ModelConfig, to_dict
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights

WORDS = ModelConfig(
  vocab=432, d_model=16, layers=1, heads=2, dense_ff=16, max_context=128,
  attention=GQAConfig(kv_heads=1, head_dim=8),
)  # fmt: skip
BYTES = ModelConfig(
  vocab=272, d_model=24, layers=1, heads=2, dense_ff=16, max_context=256,
  attention=GQAConfig(kv_heads=1, head_dim=12),
)  # fmt: skip
POSITIVE = "tests.positive_task:Positive"


def values(**changes):
  """A config of every stage, on a task whose answers need no form."""
  made = {"steps": 2, "batch": 2, "length": 64, "task": "tiny"}
  samples = {"prompts": 64, "group": 4, "max_new": 32, "format": 0.0, "language": 0.0}
  tuned = {"samples": samples, "epochs": 1, "batch": 2, "length": 48}
  rollout = {"prompts": 4, "group": 8, "max_new": 32, "rows": 16, "width": 40, "updates": 1}
  rollout["advantage"] = {"truncated": "keep"}
  reinforced = {"iterations": 1, "rl": {"rollout": rollout}}
  stages = dict.fromkeys(("base", "student_base"), made)
  stages |= dict.fromkeys(("r1_zero", "rl1", "r1", "student_rl"), reinforced)
  stages |= dict.fromkeys(("cold_start", "sft2", "distilled"), tuned)
  return {
    "teacher": to_dict(WORDS),
    "student": to_dict(WORDS),
    "task": POSITIVE,
    "evaluation": {"problems": 4, "samples": 2, "max_new": 4},
    "engine_batch": 16,
    **json.loads(json.dumps(stages)),
    **changes,
  }


def save_model(folder, config=WORDS, tokenizer="word", seed=0):
  """A directory as Hugging Face keeps it, of random weights."""
  weights = jax.jit(lambda key: init_weights(Transformer(config), key))(jax.random.key(seed))
  save_pretrained(folder, config, weights, load_tokenizer(tokenizer))
  return str(folder)


def write_lines(path, records):
  """A file of JSON lines."""
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)
