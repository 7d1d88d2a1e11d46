"""Reads runs of the R1 recipe that differ in their seed as one: mean scores, and paired gains.

python -m experiments.pool --workdirs=runs/r1,runs/r1_seed1,runs/r1_seed2
"""

from absl import flags

from deepseek_jax.paths import local_path
from deepseek_jax.recipe.pool import pool
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Prints the tables of the runs in --workdirs."""
  print(pool([local_path(directory) for directory in FLAGS.workdirs]))


if __name__ == "__main__":
  flags.DEFINE_list("workdirs", [], "Finished workdirs of experiments.r1.")
  program.run(main)
