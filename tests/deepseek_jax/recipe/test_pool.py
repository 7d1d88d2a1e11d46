"""Runs read as one: means over runs, intervals over problems, and what is refused."""

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.estimators import Estimate, paired_difference
from deepseek_jax.evaluate.figures import figure
from deepseek_jax.recipe.graph import GRAPH
from deepseek_jax.recipe.pool import pool
from deepseek_jax.recipe.record import Record, read_record

DECODINGS = ("mini greedy", "mini T=1")


def write_run(directory, rng, changes=None, hash="#0", problems=40):
  """Records whose scores are random, but for the stages in `changes`; returns T = 1's."""
  solved = {}
  for node in GRAPH:
    scores = {d: rng.random(problems) for d in DECODINGS} | (changes or {}).get(node.stage, {})
    labelled = {f"{d} {hash}": s.tolist() for d, s in scores.items()}
    (directory / "stages").mkdir(parents=True, exist_ok=True)
    length, right = float(rng.integers(10, 50)), float(scores[DECODINGS[1]].mean())
    figures = [
      figure(node.stage, f"{DECODINGS[1]} {hash}", metric, Estimate(value, value, value), 1, 0)
      for metric, value in (("length", length), ("pass@1", right))
    ]
    Record(figures, labelled, [], {}).write(directory / "stages" / f"{node.stage}.json")
    solved[node.stage] = scores[DECODINGS[1]]
  return solved


def line(text, start):
  return next(row for row in text.splitlines() if row.startswith(start))


def test_a_problem_counts_once_with_its_mean_over_runs(tmp_path):
  rng = np.random.default_rng(0)
  runs = [write_run(tmp_path / str(i), rng) for i in range(3)]
  text = pool([tmp_path / str(i) for i in range(3)])
  mean = {stage: np.mean([run[stage] for run in runs], axis=0) for stage in runs[0]}
  gain = paired_difference(mean["r1_zero"], mean["base"])
  shown = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
  assert shown in line(text, "r1_zero over base")
  assert text.splitlines()[0] == "pass@1 of mini over 3 runs"
  assert line(text, "stage").split() == ["stage", "greedy", "T=1"]
  assert f"{mean['r1'].mean():.3f} [" in line(text, "r1 ")


def test_manners_are_means_over_runs(tmp_path):
  rng = np.random.default_rng(3)
  runs = [write_run(tmp_path / str(i), rng) for i in range(2)]
  text = pool([tmp_path / str(i) for i in range(2)])
  table = text[text.index("means over runs") : text.index("gains")]
  lengths = [
    next(f["value"] for f in read_record(tmp_path / str(i) / "stages" / "rl1.json").figures)
    for i in range(2)
  ]
  cells = line(table, "rl1 ").split()
  assert float(cells[2]) == np.mean(lengths)
  assert cells[-2:] == [f"{run['rl1'].mean():.3f}" for run in runs]


def test_says_how_many_runs_show_a_gain_alone(tmp_path):
  rng = np.random.default_rng(1)
  for i, rise in enumerate((0.5, 0.5, 0.0)):
    base = rng.random(40) / 4
    after = base + rise + rng.normal(0, 0.01, 40) * (rise > 0)
    changes = {"base": {DECODINGS[1]: base}, "r1_zero": {DECODINGS[1]: after}}
    write_run(tmp_path / str(i), rng, changes)
  text = pool([tmp_path / str(i) for i in range(3)])
  assert line(text, "r1_zero over base").endswith(" 2/3")


def test_a_graph_with_stages_left_out_is_pooled_by_those_it_has(tmp_path):
  rng = np.random.default_rng(4)
  for name in "ab":
    write_run(tmp_path / name, rng)
    (tmp_path / name / "stages" / "rl1.json").unlink()
    (tmp_path / name / "config.json").write_text('{"rl1": null, "r1": {}}')
  text = pool([tmp_path / "a", tmp_path / "b"])
  assert "r1_zero over base" in text and "rl1 over" not in text and "\nrl1 " not in text
  write_run(tmp_path / "c", rng)
  with pytest.raises(ConfigError, match="c has other stages than"):
    pool([tmp_path / "a", tmp_path / "c"])


def test_refuses_unfinished_and_unlike_runs(tmp_path):
  rng = np.random.default_rng(2)
  write_run(tmp_path / "a", rng)
  write_run(tmp_path / "b", rng, hash="#1")
  with pytest.raises(ConfigError, match="pool like with like"):
    pool([tmp_path / "a", tmp_path / "b"])
  (tmp_path / "b" / "stages" / "rl1.json").unlink()
  with pytest.raises(ConfigError, match="has not finished the stage rl1"):
    pool([tmp_path / "b"])
  with pytest.raises(ConfigError, match="at least one workdir"):
    pool([])
