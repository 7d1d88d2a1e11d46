"""Distils a teacher into a student, on the teacher's answers or its logits.

  python -m experiments.distill --config=configs/distill_mini.py --workdir=runs/student \
      --config.teacher=runs/rl --config.init=runs/student_base

The same command goes on from the workdir's newest checkpoint. Teacher and --config.init are
workdirs or Hugging Face directories; --config.data.task=package.module:name takes problems of your
own, --config.mix=1 the logits, --config.lora.rank=16 trains adapters of the student alone.

A model that is its own teacher (both are M) learns a policy by heart: --config.traces.policy=FILE,
or a text, stands before the prompts while it samples, as the system's turn where it has turns; the
task's verifier keeps the answers that obey, --config.traces.cites=PATTERN those whose thought
refers to it, and prompts are learnt without. configs/deliberative_mini.py is an example.
"""

from deepseek_jax.rl.distillation import distill_job, run_distill
from experiments import program


def main() -> None:
  """Runs the job of the flags."""
  config, workdir = program.training_config()
  run_distill(distill_job(config), workdir)


if __name__ == "__main__":
  program.training_flags()
  program.verifier_flags()
  program.run(main)
