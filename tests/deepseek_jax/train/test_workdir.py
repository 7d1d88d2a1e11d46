"""Workdirs are their config's, and metrics.jsonl tells one story."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.pipeline import corpus_fingerprint
from deepseek_jax.train.metrics import MetricsLog, read_metrics
from deepseek_jax.train.workdir import Workdir, read_config, write_atomically

CONFIG = {"model": {"layers": 2}, "train": {"steps": 5, "log_every": 1}, "seed": 0, "mtp": (1, 2)}


def changed(**fields):
  return {**CONFIG, **fields}


def test_same_config_and_free_fields_resume(tmp_path):
  Workdir(tmp_path / "w", CONFIG)
  Workdir(tmp_path / "w", CONFIG)
  Workdir(tmp_path / "w", changed(train={"steps": 50, "log_every": 10}))
  assert read_config(tmp_path / "w")["train"] == {"steps": 50, "log_every": 10}


def test_another_config_is_refused_with_both_values_and_nothing_changes(tmp_path):
  Workdir(tmp_path, CONFIG)
  with pytest.raises(ConfigError) as error:
    Workdir(tmp_path, changed(model={"layers": 3}, train={"steps": 9, "log_every": 1}, tied=True))
  message = str(error.value)
  assert "model.layers was 2 and is 3" in message
  assert "tied was 'absent' and is True" in message
  assert "steps" not in message
  assert read_config(tmp_path) == json.loads(json.dumps(CONFIG))


def test_fields_that_an_older_run_did_not_know_have_their_defaults(tmp_path):
  config = DataConfig(task="tiny")
  with Workdir(tmp_path, config):
    older = {n: v for n, v in read_config(tmp_path).items() if n not in ("template", "split")}
  (tmp_path / "config.json").write_text(json.dumps(older))
  with Workdir(tmp_path, config):
    assert read_config(tmp_path)["template"] == "plain"
  (tmp_path / "config.json").write_text(json.dumps(older))
  with pytest.raises(ConfigError, match="template was 'plain' and is 'turns'"):
    Workdir(tmp_path, DataConfig(task="tiny", template="turns"))


def test_a_directory_that_is_no_workdir_is_one_sentence(tmp_path):
  with pytest.raises(ConfigError, match="no config.json"):
    read_config(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ConfigError, match="checkpoints but no config"):
    Workdir(tmp_path, CONFIG)
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="is a file"):
    Workdir(tmp_path / "file", CONFIG)


@pytest.mark.parametrize("text", ["{}", "[]", '{"model_type": "qwen2", "seed": 1}', '{"a": 1}'])
def test_a_config_of_someone_else_is_told_and_stays(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(
    ConfigError, match="config.json that is no run's of this program; name another"
  ):
    Workdir(tmp_path, CONFIG)
  assert (tmp_path / "config.json").read_text() == text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "config.json"
  write_atomically(path, "old")

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="No space left"):
    write_atomically(path, "new")
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def steps(path):
  return [(r.get("stage"), r["step"]) for r in read_metrics(path)]


def test_records_behind_the_checkpoint_and_cut_lines_go(tmp_path):
  log = MetricsLog(tmp_path)
  log.resume(0)
  for step in (1, 2, 3, 4):
    log.write(step, {"loss": step / 3})
  log.close()
  with open(log.path, "a") as file:
    file.write('{"step": 5, "lo')
  before = read_metrics(log.path)
  assert steps(log.path) == [(None, 1), (None, 2), (None, 3), (None, 4)]
  log.resume(3)
  log.write(4, {"loss": 9.0})
  log.close()
  assert read_metrics(log.path)[:3] == before[:3]
  assert read_metrics(log.path)[3] == {"step": 4, "loss": 9.0}


def test_stages_share_a_file_and_truncate_only_themselves(tmp_path):
  first, second = MetricsLog(tmp_path, "base"), MetricsLog(tmp_path, "r1_zero")
  for step in (1, 2):
    first.write(step, {"loss": 1.0})
  second.write(1, {"loss": 1.0})
  second.resume(0)
  second.close()
  assert steps(first.path) == [("base", 1), ("base", 2)]


def test_a_full_disk_leaves_whole_lines(tmp_path):
  log = MetricsLog(tmp_path)
  log.write(1, {"loss": 1.0})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 8, limits[1]))
  try:
    with pytest.raises(ConfigError, match="is full"):
      log.write(2, {"loss": 2.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert log.path.read_bytes().endswith(b"\n")
  assert steps(log.path) == [(None, 1)]


def test_a_workdir_has_one_user_at_a_time(tmp_path):
  with Workdir(tmp_path, CONFIG):
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on "):
      Workdir(tmp_path, CONFIG)
    assert read_config(tmp_path) == json.loads(json.dumps(CONFIG))  # reading needs no lock
  Workdir(tmp_path, CONFIG).close()


HOLD = """
import sys, time
from deepseek_jax.train.workdir import Workdir
held = Workdir(sys.argv[1], {"seed": 0})
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"in use by process {process.pid} on "):
      Workdir(tmp_path, {"seed": 0})
  finally:
    process.kill()
    process.communicate()
  Workdir(tmp_path, {"seed": 0}).close()


def test_a_rollouts_width_may_grow_and_nothing_else_of_it(tmp_path):
  def of(width, group=8):
    return {"rl": {"rollout": {"width": width, "group": group}}}

  Workdir(tmp_path, of(160)).close()
  Workdir(tmp_path, of(200)).close()
  assert read_config(tmp_path) == of(200)
  with pytest.raises(ConfigError, match="rl.rollout.width was 200 and is 160"):
    Workdir(tmp_path, of(160))
  with pytest.raises(ConfigError, match="rl.rollout.group was 8 and is 4"):
    Workdir(tmp_path, of(240, group=4))


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  with Workdir("~/w", CONFIG) as workdir:
    assert workdir.path == tmp_path / "w"
  assert read_config("~/w")["seed"] == 0
  assert not (tmp_path / "~").exists()
  with pytest.raises(ConfigError, match="~nobody-of-this-name/w cannot be found"):
    Workdir("~nobody-of-this-name/w", CONFIG)


def test_text_that_is_none_is_written_as_what_can_be(tmp_path):
  write_atomically(tmp_path / "x", "a \ud83d b")
  assert (tmp_path / "x").read_text() == "a ? b"


def test_a_corpus_that_changed_is_told(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text('{"text": "a"}\n')
  config = DataConfig(source="jsonl", path=str(path))
  with Workdir(tmp_path / "w", CONFIG) as workdir:
    workdir.keep("corpus", corpus_fingerprint(config))
    workdir.keep("corpus", corpus_fingerprint(config))
    with open(path, "a") as file:
      file.write('{"text": "b"}\n')
    with pytest.raises(ConfigError, match="not the one that the run in .* began with: x.jsonl"):
      workdir.keep("corpus", corpus_fingerprint(config))
    workdir.keep("reward model", {"runs/reward": "1"})
    with pytest.raises(ConfigError, match="the reward model is not the one .* runs/reward differ"):
      workdir.keep("reward model", {"runs/reward": "2"})
    (workdir.path / "corpus.json").unlink()  # as the sentence says
    workdir.keep("corpus", corpus_fingerprint(config))


@dataclasses.dataclass(frozen=True)
class Part:
  size: int
  rate: float = 0.5
  betas: tuple[float, ...] = (0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Extra:
  rank: int = 4


@dataclasses.dataclass(frozen=True)
class Whole:
  model: Part
  seed: int = 0
  name: str = ""
  tuned: Part = Part(8, rate=0.0)
  extra: Extra | None = None
  settings: dict = dataclasses.field(default_factory=dict)


parts = st.builds(
  Part, st.integers(0, 3), st.sampled_from([0.5, 1.0]), st.sampled_from([(0.9, 0.95), (0.1,)])
)
wholes = st.builds(
  Whole,
  parts,
  st.integers(0, 1),
  st.sampled_from(["", "a"]),
  st.sampled_from([Part(8, rate=0.0), Part(8), Part(2)]),
  st.sampled_from([None, Extra(), Extra(8)]),
  st.sampled_from([{}, {"a": 1}]),
)
# Fields that an older program may not have had, with the value that stands for their absence.
GAINED = {
  ("seed",): 0,
  ("name",): "",
  ("tuned",): Part(8, rate=0.0),
  ("extra",): None,
  ("settings",): {},
  ("model", "rate"): 0.5,
  ("model", "betas"): (0.9, 0.95),
  ("tuned", "rate"): 0.5,
}


def without(values, names):
  """The values without a field, and whether they had it."""
  *path, last = names
  for name in path:
    values = values.get(name) or {}
  return values.pop(last, None) is not None


def value(config, names):
  for name in names:
    config = getattr(config, name)
  return config


@given(wholes, st.sets(st.sampled_from([*GAINED]), max_size=3))
@settings(
  suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
def test_a_field_that_a_run_did_not_have_had_its_default(tmp_path, config, lacked):
  path = Path(tempfile.mkdtemp(dir=tmp_path))
  Workdir(path, config).close()
  before = json.loads((path / "config.json").read_text())
  for names in sorted(lacked, key=len, reverse=True):
    without(before, names)
  (path / "config.json").write_text(json.dumps(before))
  outer = [n for n in lacked if not any(n[:1] == o and n != o for o in lacked)]
  changed = [names for names in outer if value(config, names) != GAINED[names]]
  if not changed:
    Workdir(path, config).close()
    assert read_config(path) == json.loads(json.dumps(dataclasses.asdict(config)))
    return
  with pytest.raises(ConfigError, match="another config") as error:
    Workdir(path, config)
  for names in changed:
    assert ".".join(names) in str(error.value)
  assert read_config(path) == before


def test_a_field_that_is_gone_or_has_another_name_is_still_named(tmp_path):
  config = Whole(Part(1))
  Workdir(tmp_path, config).close()
  old = read_config(tmp_path)
  old["model"]["speed"] = old["model"].pop("rate")
  (tmp_path / "config.json").write_text(json.dumps(old))
  with pytest.raises(ConfigError, match="model.speed was 0.5 and is 'absent'"):
    Workdir(tmp_path, config)
  old["model"].pop("speed")
  (tmp_path / "config.json").write_text(json.dumps(old))
  Workdir(tmp_path, config).close()
  del old["model"]["size"]  # which has no default
  (tmp_path / "config.json").write_text(json.dumps(old))
  with pytest.raises(ConfigError, match="model.size was 'absent' and is 1"):
    Workdir(tmp_path, config)
