"""What a part of reinforcement is worth: a GRPO config beside the same config without the part.

  python -m experiments.grpo_study --config=configs/lora_mini.py --against=lora=None
      --workdir=runs/lora --config.init=runs/mini

--against=FIELD=VALUE,... changes the config for the other arm (JSON values; None and words as they
are); both begin from the same base. --permuted in its place has the other arm learn from rewards
that are permuted within each group, the control that ought to gain nothing.

Each arm is run for each of --seeds and once for each of --rates (rl.peak; --against_rates for the
other), by default the config's own. Of several rates that one counts whose rollouts were right most
often in the last quarter of their iterations: by what training saw, so that the held-out problems
choose nothing.

The base and both arms are then measured on --problems held-out problems, --samples each at T = 1.
Gains over the base, and the difference of the arms, are told with 95 % intervals, paired over
problems, a problem's figure being its mean over the seeds; how many seeds alone are sure of the
same sign is told beside them. Sampled tokens say what an arm cost.

Each run is a job with a workdir of its own below --workdir, where the same command goes on; the
figures are left in results.json.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import deepseek_jax as ds
from deepseek_jax.config import ConfigError, require
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.evaluate.estimators import paired_difference, share
from deepseek_jax.evaluate.evaluation import Protocol, evaluate
from deepseek_jax.paths import local_path
from deepseek_jax.rl.grpo_job import GRPOJob, grpo_job, run_grpo
from deepseek_jax.rl.rewards import permuted
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.loop import TrainingDiverged
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.workdir import write_atomically
from experiments import program

FLAGS = flags.FLAGS
WITH, WITHOUT, PERMUTED = "as configured", "against", "permuted"  # the arms; two of them


def main() -> None:
  """Trains what is not trained yet, measures and compares."""
  values, workdir = program.training_config()
  directory = local_path(workdir)
  require(
    bool(FLAGS.against) != FLAGS.permuted,
    "give --against, the fields by which the other arm differs, or --permuted; one of both.",
  )
  other = PERMUTED if FLAGS.permuted else WITHOUT
  arms = {WITH: values, other: values if FLAGS.permuted else changed(values, FLAGS.against)}
  for name, one in arms.items():
    grpo_job(one)  # refused before anything is trained
    require(bool(one.get("init")), f"config.init is missing in the arm {name!r}; name the base.")
  peaks = {WITH: numbers("rates", float), other: numbers("against_rates", float)}
  seeds = numbers("seeds", int)
  require(bool(seeds), "--seeds is empty; give at least one.")
  twice = [seed for seed in seeds if seeds.count(seed) > 1]
  require(not twice, f"--seeds has {twice and twice[0]} twice; that is one run, not two.")
  for flag, least in (("problems", 2), ("samples", 1)):
    value = getattr(FLAGS, flag)
    require(value >= least, f"--{flag} is {value}; give {least} or more.")
  chosen = {
    name: [best({**one, "seed": seed}, peaks[name], directory, name) for seed in seeds]
    for name, one in arms.items()
  }
  base = np.array([measured(grpo_job(values), values["init"])])
  solved = {
    name: np.array([measured(grpo_job(arms[name]), folder) for folder in folders])
    for name, folders in chosen.items()
  }
  rows = {"base": scored(base)}
  for name, folders in chosen.items():
    rows[name] = scored(solved[name]) | cost(folders) | gained(solved[name], base)
  rows["difference"] = gained(solved[WITH], solved[other])
  print(table(rows, len(seeds)), f"{WITH} less {other}: {told(rows['difference'])}", sep="\n")
  result = {"against": list(FLAGS.against), "seeds": seeds, **rows}
  write_atomically(directory / "results.json", json.dumps(result, indent=1) + "\n")


def changed(values: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
  """A config's values with fields of other values: `rl.rollout.dynamic=0`; ConfigError if unread.

  A value that is no JSON is a word; a field that is not in `values` is added, for the job to judge.
  """
  result = copy.deepcopy(dict(values))
  for change in changes:
    path, equals, text = change.partition("=")
    *sections, field = path.strip().split(".")
    require(bool(equals and field), f"--against has {change!r}; give FIELD=VALUE.")
    place = result
    for section in sections:
      inner = place.setdefault(section, {})
      require(isinstance(inner, dict), f"--against has {change!r}, but {section} is no section.")
      place = inner
    place[field] = _value(text)
  require(result != values, f"--against={','.join(changes)} changes nothing; the arms are alike.")
  return result


def _value(text: str) -> Any:
  if text == "None":
    return None
  try:
    return json.loads(text)
  except ValueError:
    return text


def numbers(flag: str, kind: type) -> list[Any]:
  """The numbers of a flag."""
  given = FLAGS[flag].value or ()
  try:
    return [kind(text) for text in given]
  except ValueError as error:
    raise ConfigError(f"--{flag} is {','.join(map(str, given))}; give numbers.") from error


def best(values: Mapping[str, Any], peaks: Sequence[float], directory: Path, name: str) -> Path:
  """Where the run lies whose rollouts ended best; ConfigError if all diverged."""
  own = grpo_job(values).rl.peak
  transform = permuted(values["seed"]) if name == PERMUTED else None
  found: dict[Path, float] = {}
  for peak in peaks or [own]:
    folder = directory / f"{name.replace(' ', '_')}_{peak:g}_seed{values['seed']}"
    try:
      run_grpo(grpo_job(changed_rate(values, peak)), folder, folder.name, transform)
    except TrainingDiverged as error:
      print(f"{folder.name}: {error}")
      continue
    found[folder] = last_quarter([r["correct"] for r in read_metrics(folder / "metrics.jsonl")])
    print(f"{folder.name}: {found[folder]:.3f} of the last rollouts were right", flush=True)
  require(bool(found), f"all of {name} diverged; give lower rates.")
  return max(found, key=lambda folder: found[folder])


def changed_rate(values: Mapping[str, Any], peak: float) -> dict[str, Any]:
  """A config's values with another rate."""
  return {**values, "rl": {**values.get("rl", {}), "peak": peak}}


def last_quarter(values: Sequence[float]) -> float:
  """The mean of the last quarter, or of the last value of fewer than four."""
  return float(np.mean(values[-max(1, len(values) // 4) :]))


def measured(job: GRPOJob, model: str | Path) -> np.ndarray:
  """A model's share of right samples, of each held-out problem of the job's task, share_P."""
  opened, task = ds.load(model, compute=job.compute), open_task(job.task)
  protocol = Protocol(
    benchmark=task.name,
    problems=FLAGS.problems,
    samples=FLAGS.samples,
    max_new=job.rl.rollout.max_new,
    template=job.rl.rollout.template,
  )
  engine = SlotEngine(opened.transformer, job.engine_batch)
  assert opened.tokenizer is not None  # for the job has trained with it
  found = evaluate(engine, opened.weights, opened.tokenizer, task, protocol)
  return found.correct_PJ.mean(axis=1)


def scored(solved_RP: np.ndarray) -> dict[str, Any]:
  """pass@1 over the runs, and of each."""
  estimate = share(solved_RP.mean(axis=0))
  alone = [round(float(value), 4) for value in solved_RP.mean(axis=1)]
  return {"pass@1": estimate.value, "ci95": [estimate.low, estimate.high], "of each": alone}


def cost(folders: Sequence[Path]) -> dict[str, Any]:
  """What the chosen runs of an arm sampled and trained, in the mean, and where they lie."""
  tokens = [
    sum(row["sampled_tokens"] for row in read_metrics(folder / "metrics.jsonl"))
    for folder in folders
  ]
  return {
    "sampled tokens": float(np.mean(tokens)),
    "trained": sum(x.size for x in _arrays(load_weights(folders[0] / "checkpoints").params)),
    "runs": [folder.name for folder in folders],
  }


def gained(after_RP: np.ndarray, before_RP: np.ndarray) -> dict[str, Any]:
  """The paired difference of pass@1, and how many runs alone exclude zero on its side.

  One run of the base is set beside every run of an arm.
  """
  gain = paired_difference(after_RP.mean(axis=0), before_RP.mean(axis=0))
  others = np.broadcast_to(before_RP, after_RP.shape)
  alone = [paired_difference(a, b) for a, b in zip(after_RP, others, strict=True)]
  sure = sum(one.low > 0 if gain.value > 0 else one.high < 0 for one in alone)
  return {"gain": gain.value, "gain_ci95": [gain.low, gain.high], "sure": sure}


def table(rows: Mapping[str, Mapping[str, Any]], seeds: int) -> str:
  """The figures, a line for each model."""
  head = f"{'':<14}{'pass@1, T = 1':<24}{'sampled':>9}{'trained':>10}  gain over the base"
  lines = [head + f" (of {seeds} seeds, sure alone)"]
  for name, row in rows.items():
    if name == "difference":
      continue
    line = f"{name:<14}{interval(row['pass@1'], row['ci95']):<24}"
    line += f"{_thousands(row)}{row.get('trained', ''):>10}"
    if "gain" in row:
      line += f"  {told(row)}"
    lines.append(line)
  return "\n".join(lines)


def told(row: Mapping[str, Any]) -> str:
  """A gain with its interval, and how many seeds alone are sure of it."""
  return f"{interval(row['gain'], row['gain_ci95'], '+')} ({row['sure']})"


def _thousands(row: Mapping[str, Any]) -> str:
  return f"{row['sampled tokens'] / 1000:>8.0f}k" if "sampled tokens" in row else " " * 9


def interval(value: float, ci95: Sequence[float], sign: str = "") -> str:
  """A figure and its interval."""
  return f"{value:{sign}.3f} [{ci95[0]:{sign}.3f}, {ci95[1]:{sign}.3f}]"


def _arrays(params: Any) -> list[np.ndarray]:
  """The arrays of nested parameters."""
  return [x for p in params.values() for x in (_arrays(p) if isinstance(p, dict) else [p])]


if __name__ == "__main__":
  program.training_flags()
  program.verifier_flags()
  flags.DEFINE_list("against", [], "Fields of the other arm, as FIELD=VALUE.")
  flags.DEFINE_bool("permuted", False, "The other arm learns from permuted rewards.")
  flags.DEFINE_list("rates", [], "Peaks of the learning rate; by default the config's.")
  flags.DEFINE_list("against_rates", [], "Those of the other arm.")
  flags.DEFINE_list("seeds", ["0"], "Of the runs.")
  flags.DEFINE_integer("problems", 192, "Held-out problems.")
  flags.DEFINE_integer("samples", 4, "Of each problem.")
  program.run(main)
