"""The stages of reinforcement: a rollout and its updates are one step of the loop."""

import jax

from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import ReinforceStage
from deepseek_jax.recipe.course import Course
from deepseek_jax.recipe.machinery import Machinery
from deepseek_jax.rl.learned_reward import open_judge
from deepseek_jax.rl.rollout import Rollout
from deepseek_jax.rl.samples import SampleLog
from deepseek_jax.rl.trainer import Reinforcement
from deepseek_jax.tasks.task import Task
from deepseek_jax.train.loop import Feed, Position
from deepseek_jax.train.state import TrainState


def reinforcement(
  stage: ReinforceStage,
  machinery: Machinery,
  tokenizer: Tokenizer,
  task: Task,
  seed: int,
  clock: Clock,
  samples: SampleLog,
  log_every: int,
) -> Course:
  """Rollouts and updates, told apart by the clock; of every logged one some samples are kept."""

  def observe(iteration: int, rollout: Rollout) -> None:
    step = iteration + 1
    samples.observe(step, rollout, step % log_every == 0 or step == stage.iterations)

  job = Reinforcement(
    update=machinery.policy_step,
    score=machinery.score,
    engine=machinery.engine,
    task=task,
    tokenizer=tokenizer,
    config=stage.rl,
    iterations=stage.iterations,
    seed=seed,
    mesh=machinery.mesh,
    judge=open_judge(stage.rl.rollout),
    observe=observe,
  )

  def feed(position: Position, state: TrainState) -> Feed:
    jax.block_until_ready(state)  # an update under way is training, not sampling
    with clock("sampling"):
      return job.feed(position, state)

  return Course(stage.iterations, job.step, feed)
