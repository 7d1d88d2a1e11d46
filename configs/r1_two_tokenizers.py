"""Distillation into a student of another vocabulary, in small: a teacher of words, one of bytes.

Reproduces: the course of 2501.12948's section 2.4 for students whose tokenizer is not the
  teacher's: its filtered answers are learnt as text. The teacher is R1-Zero of the tiny task.
Hardware: two CPU cores.
Command: python -m experiments.r1 --config=configs/r1_two_tokenizers.py --workdir=runs/two
Result: seed 0, 40 held-out problems: pass@1 of student_base and distilled, greedy .425 and .625, at
  T = 0.6 .434 and .597, at T = 1 .341 and .500, paired gain +.159 [.074, .244]; base .212 and
  r1_zero .300.
"""

from ml_collections import ConfigDict

from configs.r1_base import r1

BYTES = {
  "vocab": 272,
  "d_model": 64,
  "layers": 2,
  "heads": 2,
  "dense_ff": 160,
  "attention": {"kv_heads": 1, "head_dim": 32},
  "max_context": 256,
}


def get_config() -> ConfigDict:
  """The student reads a byte where the teacher reads a word: about three times the tokens."""
  return r1(
    teacher=BYTES | {"vocab": 432},
    student=BYTES,
    base={"steps": 500, "length": 96, "packing": "documents"},
    r1_zero={
      "iterations": 20,
      "rl": {
        "rollout": {"prompts": 32, "group": 8, "max_new": 48, "rows": 16, "width": 96},
        "peak": 3e-4,
        "warmup": 3,
      },
    },
    student_base={"steps": 900, "length": 160, "packing": "documents", "tokenizer": "byte"},
    distilled={
      "source": "r1_zero",
      "samples": {"prompts": 768, "group": 4, "keep": 2, "max_new": 48},
      "epochs": 3,
      "length": 160,
      "rate": 1e-3,
    },
    cold_start=None,
    rl1=None,
    sft2=None,
    r1=None,
    student_rl=None,
    task="tiny",
    evaluation={"problems": 40, "samples": 8, "max_new": 112},
  )
