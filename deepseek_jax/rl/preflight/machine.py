"""Findings about what a trial ran on: memory, the verifier, the update, and its time."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.config import ModelConfig
from deepseek_jax.plan.flops import train_flops
from deepseek_jax.plan.memory import readable
from deepseek_jax.rl.preflight.finding import Finding
from deepseek_jax.rl.preflight.headroom import Headroom
from deepseek_jax.rl.preflight.trial import Trial
from deepseek_jax.tasks.gold import Gold
from deepseek_jax.train.progress import duration

_DAY = 86_400.0  # seconds of a run above which it is amber


def memory_finding(headroom: Headroom, peak: int = 0) -> Finding:
  """What the longest batch needs beside what there is; amber from four fifths of it on."""
  h = headroom
  parts = {
    "weights": h.weights,
    "moments": h.moments,
    "reference": h.reference,
    "weights prepared for sampling": h.prepared,
    "cache and logits while sampling": h.cache,
    "temporaries of an update": h.temporaries,
  }
  told = ", ".join(f"{name} {readable(size)}" for name, size in parts.items() if size)
  told += f" ({readable(h.gradients)} of them gradients)"
  reached = f"; this process reached {readable(peak)} in all" if peak else ""
  values = dataclasses.asdict(h) | {"peak": h.peak, "reached": peak}
  if h.available is None:
    figure = f"an iteration needs {readable(h.peak)}: {told}{reached}; the system says not how much"
    return Finding("memory", "amber", f"{figure} there is", "compare them yourself", values)
  figure = f"an iteration needs {readable(h.peak)} of {readable(h.available)}: {told}{reached}"
  share = max(h.peak, peak) / h.available
  if share <= 0.8:
    return Finding("memory", "green", figure, values=values)
  if h.updating >= h.sampling:
    change = "lower rl.rollout.rows (a micro-batch) or width, set compute.remat, or split by mesh"
  else:
    change = "lower engine_batch, or rl.rollout.width with max_new, or split by mesh"
  return Finding("memory", "red" if share > 1 else "amber", figure, change, values)


def disk_finding(headroom: Headroom, workdir: Path, keep: int, devices: int) -> Finding:
  """What the run's checkpoints take where it would be kept; one more is there while one is saved.

  A workdir that holds a run is told, for that one would go on, from its own weights.
  """
  size = devices * (keep + 1) * headroom.saved
  place = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
  free = shutil.disk_usage(place).free
  figure = f"checkpoints take {readable(size)} of {readable(free)} free at {workdir}"
  values = {"checkpoints": size, "free": free}
  if size > free:
    return Finding("disk", "red", figure, "free some, lower train.keep, or name another", values)
  if (workdir / "checkpoints").exists():
    change = "a run is there already and would go on, but what is tried here is the start model"
    return Finding("disk", "amber", figure, change, values)
  return Finding("disk", "green", figure, values=values)


def gold_finding(gold: Gold) -> Finding:
  """Whether the verifier accepts the task's own answers, and not those of other problems."""
  values = dataclasses.asdict(gold)
  if not gold.answered:
    figure = f"the task gives no answers to its {gold.problems} problems; its verifier is unchecked"
    return Finding("verifier", "green", figure, values=values)
  figure = f"accepts {gold.accepted} of {gold.answered} answers that the task itself gives"
  if gold.answered < gold.problems:
    figure += f" (to {gold.problems - gold.answered} problems it gives none)"
  if not gold.accepted:
    change = "either the answers are wrong, or it reads none of the forms tried: "
    tried = "<answer> tags behind <think> tags, \\boxed{}, ```python, and the answer alone"
    return Finding("verifier", "amber", figure, change + tried, values)
  figure += f", as {gold.form}"
  if gold.controls:
    figure += f"; and of {gold.controls} answers to other problems {gold.mistaken}"
  refused = f"it refuses {'; '.join(gold.refused)}" if gold.refused else ""
  if gold.accepted < 0.9 * gold.answered:
    return Finding("verifier", "red", figure, f"right answers are punished: {refused}", values)
  if gold.controls and gold.mistaken >= 0.5 * gold.controls:
    return Finding("verifier", "red", figure, "wrong answers are rewarded: mend it", values)
  if refused:
    return Finding("verifier", "amber", figure, refused, values)
  return Finding("verifier", "green", figure, values=values)


def failure_finding(trial: Trial) -> Finding:
  """Completions that the verifier could not judge, by kind; red above a fifth."""
  failed, size = sum(trial.failures.values()), trial.correct_PJ.size
  if not failed:
    return Finding("judging", "green", f"the verifier judged all {size} samples", values={})
  kinds = ", ".join(f"{count} by {kind}" for kind, count in trial.failures.items())
  change = "they count as wrong; the first of each kind is told above, on standard error"
  level = "red" if failed > 0.2 * size else "amber"
  figure = f"the verifier failed on {failed} of {size} samples, {kinds}"
  return Finding("judging", level, figure, change, dict(trial.failures))


def update_finding(trial: Trial, clip: float, largest_gap: float | None = None) -> Finding:
  """Whether an update is sound: finite, and of the same model that sampled.

  `largest_gap` is the difference at which a run ends, if there is one.
  """
  norm, mismatch = (trial.update[name] for name in ("grad_norm", "mismatch"))
  figure = (
    f"gradient norm {norm:.3g}; sampling and training differ by at most {mismatch:.2g} in "
    "log-probability"
  )
  values = {name: value for name, value in trial.update.items() if math.isfinite(value)}
  if not math.isfinite(norm) or not math.isfinite(mismatch):
    return Finding("update", "red", figure, "it is no number; set compute.dtype=float32", values)
  if largest_gap and mismatch > largest_gap:
    change = f"a run ends above rl.largest_gap, {largest_gap:g}; raise it, or set "
    return Finding("update", "red", figure, f"{change}compute.dtype=float32", values)
  if mismatch > clip:
    change = f"that is above rl.clip_low, {clip:g}, before anything is learnt; set "
    return Finding("update", "amber", figure, f"{change}compute.dtype=float32", values)
  return Finding("update", "green", figure, values=values)


def update_operations(trial: Trial, config: ModelConfig, epochs: int) -> float:
  """Floating-point operations of an iteration's updates if every group teaches; no padding."""
  mtp = config.mtp_depth > 0
  alone, beside = (train_flops(config, context, mtp) for context in (0.0, 1.0))
  length_PJ = trial.prompt_lengths_P[:, None] + trial.lengths_PJ
  each_PJ = length_PJ * (alone + length_PJ / 2 * (beside - alone))  # half of it is seen on average
  return float(each_PJ.sum()) * epochs * trial.scale / len(trial.turns)


def time_finding(trial: Trial, iterations: int, operations: float, rounds: float = 1.0) -> Finding:
  """Seconds by phase, and the run's hours if every group teaches, which is their most.

  `operations` are those of an iteration's updates, whose rate is told beside their seconds;
  `rounds` says how often an iteration samples (`rollout.dynamic`).
  """
  settled = [turn for turn in trial.turns[1:] if turn.updating is not None]
  updating = max(settled[-1].updating or 0.0, 1e-9)
  later = trial.turns[1:]
  parts = {
    "sampling": rounds * trial.scale * float(np.mean([turn.sampling for turn in later])),
    "judging": rounds * trial.scale * float(np.mean([turn.scoring for turn in later])),
    "updating": trial.scale * updating,
  }
  seconds = sum(parts.values())
  whole = iterations * seconds + trial.compiling
  scaled = "" if trial.scale == 1 else f", as {100 / trial.scale:.0f} % of its prompts have it"
  scaled += "" if rounds == 1 else f", with {rounds:.3g} rounds of sampling (rl.rollout.dynamic)"
  figure = (
    f"an iteration takes {seconds:.3g} s ("
    + ", ".join(f"{name} {value:.2g}" for name, value in parts.items())
    + f"){scaled}, updates at {operations / parts['updating'] / 1e9:.3g} GFLOP/s; with "
    f"{trial.compiling:.3g} s of compiling {iterations} iterations take {duration(whole)} at most, "
    "if the samples do not grow"
  )
  values: dict[str, Any] = {
    **parts,
    "iteration": seconds,
    "update_operations": operations,
    "compiling": trial.compiling,
    "run": whole,
  }
  values["turns"] = [dataclasses.asdict(turn) for turn in trial.turns]
  if whole <= _DAY:
    return Finding("time", "green", figure, values=values)
  return Finding(
    "time", "amber", figure, "lower train.steps, or rl.rollout's prompts or group", values
  )
