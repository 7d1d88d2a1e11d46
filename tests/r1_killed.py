"""The whole graph for tests that kill it: few steps of each stage; every third is saved."""

from ml_collections import ConfigDict

from configs import r1_tiny


def get_config() -> ConfigDict:
  """The bases read worked solutions; all else is judged by processes of the scorers' pool."""
  config = r1_tiny.get_config()
  for stage in ("base", "student_base"):
    config[stage].update(steps=60, task="tiny", batch=6, length=96)
  for stage in ("r1_zero", "rl1", "r1", "student_rl"):
    config[stage].iterations = 8
  for stage in ("cold_start", "sft2", "distilled"):
    config[stage].samples.update(prompts=48, format=0.0)
    config[stage].update(epochs=4, batch=2)
  config.task = "isolated:tests.positive_task:Positive"
  config.save_every = 3
  config.evaluation.update(problems=2, samples=2)
  return config
