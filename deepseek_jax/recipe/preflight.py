"""A preflight of the graph: every stage of reinforcement that is still to come, tried by itself.

A stage is tried with the model that it will begin with, where that is there: given from outside, or
trained by this run already. Of the others only the memory is looked at; once their start is there
the same command tries them.
"""

from collections.abc import Iterator

from deepseek_jax.config import require
from deepseek_jax.recipe.config import GivenStage, ReinforceStage
from deepseek_jax.recipe.graph import Node, seed_of
from deepseek_jax.recipe.run import Run
from deepseek_jax.rl.grpo_job import GRPOJob
from deepseek_jax.rl.preflight.verdict import Verdict, judge
from deepseek_jax.train.loop import LoopConfig


def judge_stages(run: Run, problems: int | None = None) -> Iterator[tuple[str, Verdict]]:
  """Each unfinished stage of reinforcement with its verdict, in the graph's order.

  On `problems` problems, by default those of two iterations. Nothing is written. ConfigError where
  no such stage is left.
  """
  coming = [
    node
    for node in run.graph
    if isinstance(getattr(run.config, node.stage), ReinforceStage)
    and not run.record_path(node.stage).exists()
  ]
  require(bool(coming), f"{run.directory} has no reinforcement before it; there is nothing to try.")
  for node in coming:
    yield node.stage, _judged(run, node, problems)


def _judged(run: Run, node: Node, problems: int | None) -> Verdict:
  assert node.start is not None  # reinforcement begins with a model
  given = isinstance(getattr(run.config, node.start), GivenStage)
  there = given or run.record_path(node.start).exists()
  return judge(
    job_of(run, node),
    problems,
    run.directory,
    run.weights(node.start) if there else None,
    "" if there else f"it begins with {node.start}, which is not trained yet",
  )


def job_of(run: Run, node: Node) -> GRPOJob:
  """A stage of reinforcement as a job of its own, of whose start only the name is in it."""
  config, stage, origin = run.config, getattr(run.config, node.stage), run.origins[node.stage]
  return GRPOJob(
    model=origin.model,
    train=LoopConfig(steps=stage.iterations, checkpoint_every=config.save_every, keep=1),
    rl=stage.rl,
    task=config.task_of(stage),
    tokenizer=origin.tokenizer_name,
    optimizer=config.optimizer,
    compute=config.compute,
    mesh=config.mesh,
    engine_batch=config.engine_batch,
    seed=seed_of(config, node.stage),
    init=node.start or "",
  )
