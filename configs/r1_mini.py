"""The whole R1 recipe in miniature: nothing of it is switched off, only small.

Reproduces: the stages of 2501.12948 (figure 2 and the students of section 2.4) on two procedural
  tasks in two languages, with a V3 of 0.5M parameters (MLA, 8 experts with the selection bias,
  MTP). Unlike V3's, its problems are hidden from one another in a pack: see LOG.md.
Hardware: two CPU cores.
Command: python -m experiments.r1 --config=configs/r1_mini.py --workdir=runs/r1
Result: 821 s and 1.8 GB on an AMD EPYC of 160 GFLOP/s in float32, 626 s on an Intel Xeon of 305. At
  T = 1, pass@1 of seeds 0, 1, 2 is: base .311 .326 .320, r1_zero .805 .835 .800, r1 .830 .832 .839;
  student_base .176 .123 .211, distilled .583 .345 .644, student_rl .489 .191 .408. The table is in
  the README.
"""

from ml_collections import ConfigDict

from configs.r1_base import r1

STUDENT = {
  "vocab": 432,
  "d_model": 64,
  "layers": 2,
  "heads": 2,
  "dense_ff": 160,
  "attention": {"kv_heads": 1, "head_dim": 32, "qkv_bias": True},
  "max_context": 512,
}


ROLLOUT = {"prompts": 32, "group": 8, "max_new": 128, "updates": 2, "rows": 12, "width": 144}


def rollout(**changes) -> dict:
  """32 prompts with 8 samples each, cut into two updates."""
  return ROLLOUT | changes


def get_config() -> ConfigDict:
  """Teacher: the preset v3_mini. Lengths in steps, prompts and epochs; none in seconds."""
  language = {"correct": 1.0, "format": 0.1, "language": 0.2}
  return r1(
    teacher={"preset": "v3_mini", "vocab": 432, "moe": {"shared": 4}},
    student=STUDENT,
    base={"steps": 2600, "batch": 12, "length": 144, "packing": "documents"},
    r1_zero={"iterations": 60, "rl": {"rollout": rollout(), "peak": 2e-4, "warmup": 3}},
    cold_start={"samples": {"prompts": 768, "group": 4, "keep": 2}, "epochs": 3, "length": 144},
    rl1={"iterations": 40, "rl": {"rollout": rollout(reward=language), "peak": 2e-4, "warmup": 3}},
    sft2={"samples": {"prompts": 1536, "group": 4, "keep": 2}, "epochs": 3, "length": 144},
    r1={"iterations": 40, "rl": {"rollout": rollout(reward=language), "peak": 2e-4, "warmup": 3}},
    student_base={"steps": 1200, "batch": 12, "length": 144, "packing": "documents"},
    distilled={
      "samples": {"prompts": 2048, "group": 4, "keep": 3},
      "epochs": 4,
      "length": 144,
      "rate": 2e-3,
    },
    student_rl={"iterations": 60, "rl": {"rollout": rollout(), "peak": 3e-4, "warmup": 3}},
    task="0.5 * countdown + 0.5 * chain_sum",
    evaluation={"problems": 128, "samples": 8},
  )
