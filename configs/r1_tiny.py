"""The graph of configs/r1_mini.py in under two minutes: for tests, CI and the notebook.

Reproduces: nothing but the course of a run; its models learn next to nothing.
Hardware: two CPU cores.
Command: python -m experiments.r1 --config=configs/r1_tiny.py --workdir=runs/tiny
Result: runs through; nothing is claimed of it.
"""

from ml_collections import ConfigDict

from configs import r1_mini


def get_config() -> ConfigDict:
  """A few steps of every stage with smaller models."""
  config = r1_mini.get_config()
  config.teacher.update(d_model=32, layers=2, heads=2, dense_ff=64)
  config.teacher.attention.update(q_latent=16, kv_latent=16, nope_dim=8, rope_dim=8, v_dim=16)
  config.teacher.moe.update(experts=4, expert_ff=16, groups=2, top_groups=1)
  config.student.update(d_model=32, layers=1, dense_ff=64)
  config.student.attention.update(head_dim=16)
  for stage in ("base", "student_base"):
    config[stage].update(steps=300)
  for stage in ("r1_zero", "rl1", "r1", "student_rl"):
    config[stage].iterations = 2
    config[stage].rl.rollout.update(prompts=8, group=4, max_new=32, width=48)
  for stage in ("cold_start", "sft2", "distilled"):
    config[stage].epochs = 1
    config[stage].samples.update(prompts=256, max_new=32, language=0.0)
  config.evaluation.update(problems=8, samples=4, max_new=32)
  config.engine_batch = 64
  config.task = "tiny"
  return config
