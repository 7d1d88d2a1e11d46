"""A preflight's verdict: its findings and proposals together, as text and as JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from deepseek_jax.evaluate.results import finite
from deepseek_jax.rl.grpo_job import GRPOJob
from deepseek_jax.rl.preflight.finding import LEVELS, Finding, worst
from deepseek_jax.rl.preflight.headroom import Headroom
from deepseek_jax.rl.preflight.machine import (
  disk_finding,
  failure_finding,
  gold_finding,
  memory_finding,
  time_finding,
  update_finding,
  update_operations,
)
from deepseek_jax.rl.preflight.proposals import Proposal, propose
from deepseek_jax.rl.preflight.samples import rounds_drawn, sample_findings
from deepseek_jax.rl.preflight.trial import Trial, try_job
from deepseek_jax.types import Weights


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a preflight found of a job, and what it proposes."""

  title: str
  findings: tuple[Finding, ...]
  proposals: tuple[Proposal, ...]
  untried: str = ""  # why nothing but the memory was looked at; "" where it was tried
  trial: Trial | None = None  # what was measured, where it did

  @property
  def level(self) -> str:
    """The worst of the findings'."""
    return worst(self.findings)

  def text(self) -> str:
    """For people to read."""
    lines = [self.title, *(f"  {finding.line}" for finding in self.findings)]
    if self.untried:
      lines.append(f"nothing else was tried, for {self.untried}")
    if self.proposals:
      lines += ["proposals", *(f"  {proposal.line}" for proposal in self.proposals)]
    counts = {level: sum(f.level == level for f in self.findings) for level in reversed(LEVELS)}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    return "\n".join([*lines, f"{self.level}: {told}; nothing was trained and nothing kept"])

  def json(self) -> str:
    """For programs to read; a number that is not finite is null."""
    return as_json(self.record())

  def record(self) -> dict[str, Any]:
    """What `json` writes."""
    return {
      "title": self.title,
      "level": self.level,
      "complete": not self.untried,
      "findings": [dataclasses.asdict(finding) for finding in self.findings],
      "proposals": [proposal.as_json() for proposal in self.proposals],
    }


def as_json(found: Any) -> str:
  """Records of verdicts as JSON, where a number that is not finite is null."""
  text = json.dumps(finite(found), indent=1, ensure_ascii=False, allow_nan=False, default=float)
  return f"{text}\n"


def judge(
  job: GRPOJob,
  problems: int | None = None,
  workdir: Path | None = None,
  weights: Weights | None = None,
  absent: str = "",
) -> Verdict:
  """Tries a job (see `try_job`, whose errors it has) and says what was found.

  `workdir` is where the run would be kept; it is only looked at. It begins with `weights`, or else
  as the job says; where `absent` says why its start is not there yet, only memory is looked at.
  """
  headroom, trial = try_job(job, problems, weights, sample=not absent)
  rollout = job.rl.rollout
  title = (
    f"preflight of {job.train.steps} iterations of {rollout.prompts} prompts x {rollout.group} "
    f"samples on {job.task}, from {job.init or 'random weights'}, on {_devices(job)}"
  )
  if trial is not None:
    tried, group = trial.correct_PJ.shape
    title += f"; tried on {tried} problems x {group} samples at temperature {rollout.temperature:g}"
  untried = absent if headroom.suffices else "the memory would not suffice for it"
  return Verdict(
    title=title,
    findings=tuple(find(job, headroom, trial, workdir)),
    proposals=tuple(propose(trial, rollout, job.model.max_context)) if trial else (),
    untried=untried,
    trial=trial,
  )


def find(
  job: GRPOJob, headroom: Headroom, trial: Trial | None, workdir: Path | None = None
) -> list[Finding]:
  """Everything there is to say of a job, what it has to fit into first."""
  room = [memory_finding(headroom, trial.peak if trial else 0)]
  if workdir is not None:
    room.append(disk_finding(headroom, workdir, job.train.keep, job.mesh.devices))
  if trial is None:
    return room
  return [
    *room,
    *sample_findings(trial, job.rl.rollout),
    gold_finding(trial.gold),
    failure_finding(trial),
    update_finding(trial, job.rl.clip_low, job.rl.largest_gap),
    time_finding(
      trial,
      job.train.steps,
      update_operations(trial, job.model, job.rl.epochs),
      rounds_drawn(trial, job.rl.rollout),
    ),
  ]


def _devices(job: GRPOJob) -> str:
  """What the run would compute on, as JAX calls it: `1 x cpu`, `8 x NVIDIA H100 80GB HBM3`."""
  return f"{job.mesh.devices} x {jax.devices()[0].device_kind}"
