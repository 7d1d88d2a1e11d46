"""DeepSeek-V3's pre-training as published (2412.19437, section 4.2).

Reproduces: the recipe's figures: 14.8T tokens of 4K sequences, batch 3072 to 15360 over the first
469B tokens, AdamW with bfloat16 moments, the learning rate's warm-up, plateau, cosine and two
tails, bias speed and MTP weight. Positions are rotated plainly: YaRN comes with the extension to
longer contexts (configs/extend_32k.py). Data, batch ramp's shape and Adam's epsilon are not
published.
Hardware: V3 took 2048 H800 for 2664K GPU-hours. The mesh here is for 2048 devices.
Command: python -m experiments.pretrain --config=configs/v3_671b.py --workdir=W
         --config.data.path=TEXT --config.data.tokenizer=DIR
Result: not run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base

T, B = 10**12, 10**9


def recipe(
  length: int, rows: int, micro_batches: int, mesh: tuple[int, int, int], **others: Any
) -> ConfigDict:
  """What pre-training and context extension have in common; `rows` are those of a micro-batch.

  They are dealt to the devices along the first two axes of `mesh`: fsdp, expert and tensor.
  """
  fsdp, expert, tensor = mesh
  return base.pretrain(
    data={
      "source": "text",
      "path": "",
      "tokenizer": "",
      "batch": rows,
      "length": length,
      "packing": "v3",
      "fim_rate": 0.1,
      "epochs": 1,
    },
    optimizer={
      "beta1": 0.9,
      "beta2": 0.95,
      "weight_decay": 0.1,
      "clip_norm": 1.0,
      "moment_dtype": "bfloat16",
    },
    compute={"dtype": "bfloat16", "remat": "full"},
    mesh={"data": 1, "fsdp": fsdp, "expert": expert, "tensor": tensor},
    micro_batches=micro_batches,
    balance_weight=1e-4,
    **others,
  )


def get_config() -> ConfigDict:
  """V3's figures; spans in tokens, the warm-up in steps."""
  config = recipe(
    length=4096,
    rows=3072,
    mesh=(16, 64, 2),
    micro_batches=5,
    model={"preset": "v3_671b", "rope": {"scaling": "none"}, "max_context": 4096},
    train={"steps": 250_000, "checkpoint_every": 500, "log_every": 10},
  )
  config.schedule = ConfigDict(
    {
      "peak_rate": 2.2e-4,
      "warmup_steps": 2000,
      "constant_until": 10 * T,
      "cosine_until": 14_300 * B,
      "cosine_rate": 2.2e-5,
      "first_tail_until": 14_633 * B,
      "second_tail_rate": 7.3e-6,
      "first_sequences": 3072,
      "last_sequences": 15_360,
      "ramp_until": 469 * B,
      "bias_speed": 1e-3,
      "bias_until": 14_300 * B,
      "first_mtp_weight": 0.3,
      "mtp_until": 10 * T,
      "last_mtp_weight": 0.1,
    }
  )
  return config
