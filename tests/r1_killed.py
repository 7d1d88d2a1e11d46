"""The recipe's graph for tests that kill it: few steps a stage, of which every second is saved."""

from ml_collections import ConfigDict

from configs import r1_tiny


def get_config() -> ConfigDict:
  """Bases read worked solutions, and all else is judged by processes of the scorers' pool."""
  config = r1_tiny.get_config()
  for stage in ("base", "student_base"):
    config[stage].update(steps=80, task="tiny")
  for stage in ("r1_zero", "rl1", "r1", "student_rl"):
    config[stage].iterations = 4
  for stage in ("cold_start", "sft2", "distilled"):
    config[stage].samples.update(prompts=48, format=0.0)
  config.task = "isolated:tests.positive_task:Positive"
  config.save_every = 2
  config.evaluation.problems = 4
  return config
