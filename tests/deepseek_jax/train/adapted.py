"""Bases in workdirs that nothing was trained for, and jobs that adapt them."""

import dataclasses
import json
from pathlib import Path

import jax

from deepseek_jax.config import GQAConfig, MLAConfig, ModelConfig, MoEConfig, to_dict
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.loop import Position
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import init_state
from deepseek_jax.train.workdir import Workdir

V3 = ModelConfig(
  vocab=512,
  d_model=32,
  layers=2,
  heads=2,
  dense_ff=48,
  attention=MLAConfig(q_latent=16, kv_latent=12, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=8, top_k=2, expert_ff=16, groups=4, top_groups=2),
  mtp_depth=1,
  max_context=256,
)
MODELS = {
  "v3": V3,
  "dense": dataclasses.replace(
    V3, moe=None, mtp_depth=0, attention=GQAConfig(1, 16, qkv_bias=True), tied=True
  ),
}
RANK = 4


def write_base(path: Path, model: ModelConfig, seed: int = 0) -> Path:
  """A workdir with random weights, as a job's start."""
  weights = jax.jit(lambda key: init_weights(Transformer(model), key))(jax.random.key(seed))
  with Workdir(path, {"model": to_dict(model)}) as workdir:
    load_tokenizer("word").save(workdir.tokenizer)
    checkpointer = Checkpointer(workdir.checkpoints)
    state = init_state(weights, make_optimizer(OptimizerConfig()))
    checkpointer.save(1, state, dataclasses.asdict(Position(step=1)))
    checkpointer.close()
  return path


def answers(path: Path) -> Path:
  """A file of prompts and answers."""
  records = [{"prompt": f"sum {a} {b} ?", "text": f" {a + b}"} for a in range(1, 5) for b in (1, 2)]
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


def sft_values(base: Path, data: Path, **changes) -> dict:
  """A fine-tuning config's values: four steps, checkpoints after two of them and four."""
  return {
    "init": str(base),
    "schedule": {"peak": 1e-2, "warmup": 1},
    "train": {"steps": 4, "checkpoint_every": 2, "keep": 4},
    "data": {
      "source": "jsonl", "path": str(data), "prompt_field": "prompt", "batch": 2, "length": 24,
      "epochs": 9,
    },
    "loss_chunk": 64,
    "lora": {"rank": RANK},
    **changes,
  }  # fmt: skip
