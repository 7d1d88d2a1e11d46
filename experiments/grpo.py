"""Reinforces a model by GRPO against a task's verifier.

  python -m experiments.grpo --config=configs/grpo_mini.py --workdir=runs/rl --config.init=runs/mini

The same command goes on from the workdir's newest checkpoint. --config.init=M is another workdir, a
Hugging Face directory, a GGUF file or a model's name on the Hub; its tokenizer, its way of being
asked and its end tokens come with it. --config.task=package.module:name takes problems and verifier
of your own, which after isolated: judges in processes of its own, as reasoning_gym:DATASET does.
--config.task=code:FILE.jsonl takes programming problems, and runs the programs in a sandbox.
--config.lora.rank=16 trains adapters of the model in --config.init (see model/adapters.py), which
the workdir then names and must stay where it is; it is the reference where there is one.

The workdir gets report.html, and samples.jsonl with what was said and earned. Every N iterations,
and before the first and after the last, --config.evaluation.every=N asks held-out problems, of the
task or of --config.evaluation.benchmark=NAME|FILE; what is learnt does not change by it.

Over several processes as experiments/pretrain.py says: all sample, the first judges.

With --preflight nothing is trained: two iterations are tried with the start model and thrown away,
and what would go wrong is told, with figures and what to change (see rl/preflight). It needs no
--workdir, and only looks at one. --preflight_prompts=N tries N problems, not those of two
iterations; --preflight_out=FILE keeps the figures as JSON; --preflight_keep=FILE the problems that
the start model solves in a fifth to four fifths of its samples, for --config.task=chosen:FILE. The
status is 1 if anything is red.
"""

import sys

from absl import flags

from deepseek_jax.config import require
from deepseek_jax.evaluate.results import write_text
from deepseek_jax.paths import local_path
from deepseek_jax.rl.grpo_job import grpo_job, run_grpo
from deepseek_jax.rl.preflight import verdict
from deepseek_jax.rl.preflight.choice import chosen_rows, lines
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the job of the flags, or its preflight."""
  if FLAGS.preflight:
    _preflight()
    return
  program.refuse_preflight_flags()
  config, workdir = program.training_config()
  run_grpo(grpo_job(config), workdir)


def _preflight() -> None:
  """Tries the job of the flags, and ends with the status of what is found."""
  require(FLAGS.coordinator is None, "--preflight runs in one process; leave --coordinator out.")
  config, workdir = program.training_config(needed=["config"])
  out, keep = program.output_file("preflight_out"), program.output_file("preflight_keep")
  where = local_path(workdir) if workdir else None
  job = grpo_job(config)
  names = [part.partition("*")[2] or part for part in job.task.split(" + ")]
  files = {local_path(name.strip().removeprefix("chosen:")).absolute() for name in names}
  require(
    keep is None or keep.absolute() not in files,
    f"--preflight_keep {keep} is a file that config.task names; name another.",
  )
  found = verdict.judge(job, FLAGS.preflight_prompts, where)
  print(found.text())
  if out is not None:
    write_text(out, found.json())
  if keep is not None and found.trial is not None:
    rows = chosen_rows(job, found.trial)
    write_text(keep, lines(rows))
    print(f"{len(rows)} problems are in {keep}: --config.task=chosen:{keep}")
  if found.level == "red":
    sys.exit(program.RED)


if __name__ == "__main__":
  program.training_flags()
  program.process_flags()
  program.preflight_flags()
  flags.DEFINE_string("preflight_keep", None, "A file for the problems that teach the most.")
  program.verifier_flags()
  program.run(main)
