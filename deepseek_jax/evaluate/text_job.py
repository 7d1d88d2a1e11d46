"""The monitor of jobs that learn from text: pre-training, fine-tuning, distillation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.held_out import EvaluationLog, open_held_out
from deepseek_jax.evaluate.job_page import Job
from deepseek_jax.evaluate.monitor import JobMonitor
from deepseek_jax.model.adapters import told
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.pretrain_job import PretrainJob
from deepseek_jax.train.run import MakeMonitor
from deepseek_jax.train.start import open_tokenizer

_BATCH = 256  # answers sampled at a time, in jobs that say nothing of it


def text_monitor(job: PretrainJob, title: str, engine_batch: int = _BATCH) -> MakeMonitor:
  """Its page, and held-out problems where `job.evaluation` asks for them.

  Those are asked as `data.template` says. ConfigError where they cannot be, before anything runs.
  """
  data, config = job.data, job.evaluation
  own = load_task(data.task) if config.every and data.source == "problems" else None
  tokenizer = open_tokenizer(data.tokenizer)
  held_out = open_held_out(config, own, tokenizer, data.template, job.model.max_context, job.seed)

  def make(model: Transformer, folder: Path, step: int) -> JobMonitor:
    log = None
    if held_out is not None:
      engine = SlotEngine(model, config.batch or engine_batch)
      log = EvaluationLog(folder, held_out, engine, step)
    return JobMonitor(folder, Job(title, _facts(job)), step, log)

  return make


def _facts(job: PretrainJob) -> Mapping[str, Any]:
  data = job.data
  learnt = data.path or (data.task if data.source == "problems" else data.source)
  start = job.init or "random weights"
  return {"data": learnt, "start": start, "trained": told(job.lora), "seed": job.seed}
