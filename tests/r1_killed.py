"""A graph for tests that kill it: all kinds of stages in few steps; every third is saved."""

from ml_collections import ConfigDict

from configs import r1_tiny


def get_config() -> ConfigDict:
  """The base reads worked solutions; all else is judged by processes of the scorers' pool."""
  config = r1_tiny.get_config()
  config.stages = "base,r1_zero,cold_start,rl1"
  config.base.update(steps=60, task="tiny", batch=6, length=96)
  for stage in ("r1_zero", "rl1"):
    config[stage].iterations = 8
  config.cold_start.samples.update(prompts=48, format=0.0)
  config.cold_start.update(epochs=4, batch=2)
  config.task = "isolated:tests.positive_task:Positive"
  config.save_every = 3
  config.evaluation.update(problems=2, samples=2)
  return config
