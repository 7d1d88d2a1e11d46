"""The chat program: piped as a user would, and its terminal."""

import dataclasses
import io
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.reply import ReplyStream
from deepseek_jax.decode.request import Event
from deepseek_jax.hub.safetensors import abstract_weights, save_pretrained
from deepseek_jax.presets import preset
from experiments.terminal import Terminal
from tests.talker import LLAMA3, write_talker

ROOT = pathlib.Path(__file__).parents[2]
WORDS = load_tokenizer("word").vocab_size
CONFIG = dataclasses.replace(
  preset("v3_mini"), layers=1, moe=None, mtp_depth=0, max_context=40, vocab=WORDS
)


def test_a_piped_conversation(tmp_path):
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda leaf: jax.numpy.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
    abstract_weights(CONFIG),
  )
  save_pretrained(tmp_path / "mini", CONFIG, weights, load_tokenizer("word"))
  lines = ["sum 1 2 ?", "", "nonsense", "/new", "sum 1 2 ?", "/quit", "sum 3 4 ?"]
  command = [
    sys.executable, "-m", "experiments.chat", f"--model={tmp_path}/mini", "--temperature=0",
    "--max_new=6", "--nothink",
  ]  # fmt: skip
  quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  done = subprocess.run(
    command, cwd=ROOT, env=quick, input="\n".join(lines), capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  answer = ds.load(tmp_path / "mini").chat("sum 1 2 ?", 6, temperature=0).answer
  assert answer and done.stdout == f"{answer}\n\n{answer}\n"
  notes = done.stderr.splitlines()
  assert "each line is asked alone" in notes[0]
  assert any("does not know 'nonsense'" in note for note in notes)
  assert "[a new conversation]" in notes


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--system=Be brief.", "no system here"),
    ("--temperature=nan", "temperature is nan"),
    ("--max_new=0", "max_new is 0"),
  ],
)
def test_what_no_line_could_be_answered_with_is_told_at_once(tmp_path, flag, message):
  pytest.importorskip("tokenizers", reason="needs the extra hf")
  refusing = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
  )
  write_talker(tmp_path / "talker", 2, refusing + LLAMA3)
  command = [sys.executable, "-m", "experiments.chat", f"--model={tmp_path}/talker", flag]
  done = subprocess.run(
    command, cwd=ROOT, input="hello\n", capture_output=True, text=True, check=False
  )
  assert done.returncode == 2 and message in done.stderr and not done.stdout


class Tty(io.StringIO):
  def isatty(self):
    return True


def shown(out, text, opened=False):
  tokens = ByteTokenizer().encode(text)
  events = [Event(0, tokens[:5], [], ""), Event(0, tokens[5:], [], "stop")]
  Terminal(out).show(ReplyStream(events, ByteTokenizer(), opened))
  return out.getvalue()


def test_a_thought_is_dim_on_a_terminal_and_in_tags_elsewhere(monkeypatch, capsys):
  monkeypatch.delenv("NO_COLOR", raising=False)
  text = "<think>a b</think>\n\nfour"
  assert shown(Tty(), text) == "\x1b[2ma b\x1b[0m\n\nfour\n"
  assert shown(io.StringIO(), text) == "<think>\na b\n</think>\n\nfour\n"
  assert shown(Tty(), "<think>a</think>") == "\x1b[2ma\x1b[0m\n\n\n"
  assert capsys.readouterr().err == ""
  assert shown(Tty(), "a b", opened=True) == "\x1b[2ma b\x1b[0m\n"
  assert "the thought was not closed" in capsys.readouterr().err
  monkeypatch.setenv("NO_COLOR", "1")
  assert shown(Tty(), text) == "<think>\na b\n</think>\n\nfour\n"
  assert shown(Tty(), "four") == "four\n"
