"""Samples in several turns: tokens stay as they were said, and each turn has its own keys."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.data.asking import ask
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.dialogue import converse, score_dialogues
from deepseek_jax.decode.engine import Samples, SamplingParams
from deepseek_jax.decode.sampling import sample_keys, token_keys, turn_keys
from deepseek_jax.tasks.task import Problem, Score
from tests.talker import LLAMA3, write_tokenizer

EOT = 2  # of the talker's tokenizer


class Reciter:
  """Says in each turn what the script has for it, and writes down what it was asked."""

  def __init__(self, *script, experts=False):
    self.script, self.experts, self.calls = script, experts, []

  def generate(self, weights, prompts, params, keys_B):
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    self.calls.append((prompts, each, np.asarray(jax.random.key_data(keys_B))))
    turn = self.script[len(self.calls) - 1]
    rows = [turn[i][: each[i].max_new] for i in range(len(prompts))]
    lengths = np.array(list(map(len, rows)), np.int32)
    tokens = np.array([row + [0] * (16 - len(row)) for row in rows], np.int32)
    met = tuple(
      np.full((1, len(p) + n, 1), len(self.calls), np.int8) for p, n in zip(prompts, lengths)
    )
    for each_met in met:
      each_met[:, -1] = -1
    return Samples(
      tokens,
      -np.arange(16, dtype=np.float32) * np.ones((len(rows), 1), np.float32) - len(self.calls),
      lengths,
      stopped_B=np.array([row[-1] == EOT for row in rows]),
      experts=met if self.experts else (),
    )


class Asker:
  """Asks on until it hears `the`, which it wants spelled in whatever tokens."""

  name = "asker"

  def __init__(self):
    self.heard = []

  def reply(self, problem, exchange):
    self.heard.append(exchange)
    return None if exchange[-1] == "the" else "the?"

  def score_exchange(self, problem, exchange):
    return Score(float(exchange[-1] == "the"), 1.0, 1.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  pytest.importorskip("tokenizers", reason="needs the extra hf")
  folder = tmp_path_factory.mktemp("talker")
  write_tokenizer(folder, LLAMA3)
  return load_tokenizer(folder)


def problem(key="p"):
  return Problem(prompt="the?", task="asker", key=key)


def talk(tokenizer, engine, count=1, turns=3, max_new=12, room=200, **rules):
  task, keys = Asker(), sample_keys(0, 0, np.arange(count), np.zeros(count, int))
  asked = [ask(tokenizer, "the?", "turns")] * count
  params = SamplingParams(max_new=max_new, stop=(EOT,), **rules)
  given = (engine, None, task, tokenizer, [problem()] * count, asked, params, keys)
  return task, keys, converse(*given, "turns", turns, room)


def letters(tokenizer, text):
  """A spelling that the tokenizer would not choose: a token for each letter."""
  return [tokenizer.id_of(letter) for letter in text]


def test_what_was_said_is_read_again_as_it_was_said(tokenizer):
  first, second = [*letters(tokenizer, "he"), EOT], [*letters(tokenizer, "the"), EOT]
  assert tokenizer.encode("the") != second[:-1], "or nothing is tested"
  engine = Reciter([second[1:]], [first], [second], experts=True)
  task, _, [one] = talk(tokenizer, engine)
  reply = tokenizer.encode("<user>the?<|eot_id|><assistant>")
  prompts = [call[0][0] for call in engine.calls]
  assert prompts[1] == prompts[0] + second[1:] + reply
  assert prompts[2] == prompts[1] + first + reply
  assert one.prompt + one.tokens == prompts[2] + second
  assert one.said == ["he", "the?", "he", "the?", "the"] and task.heard[-1] == tuple(one.said[:3])
  for start, end in one.replies:
    assert one.tokens[start:end] == reply and not one.logprobs_T[start:end].any()
  assert one.sampled == 3 + 3 + 4 and not one.truncated
  own = np.array([not any(s <= t < e for s, e in one.replies) for t in range(len(one.tokens))])
  assert one.logprobs_T[own].tolist() == [-1, -2, -3, -2, -3, -4, -3, -4, -5, -6]
  # The experts are those that were met when the token behind was sampled.
  met = one.experts_LTA[0, :, 0]
  known = [len(prompts[0]) + 3 - 1, len(prompts[1]) + 3 - 1, len(prompts[2]) + 4 - 1]
  assert met.tolist() == [1] * known[0] + [2] * (known[1] - known[0]) + [3] * (
    known[2] - known[1]
  ) + [-1]


def test_who_has_said_all_is_left_alone_and_the_others_keep_their_keys(tokenizer):
  done, on = [*tokenizer.encode("the"), EOT], [*tokenizer.encode("a"), EOT]
  engine = Reciter([done, on, done, on], [on, done], [done])
  task, keys, samples = talk(tokenizer, engine, count=4)
  assert [len(call[0]) for call in engine.calls] == [4, 2, 1]
  assert [len(one.turns) for one in samples] == [1, 3, 1, 2]
  second = np.asarray(jax.random.key_data(turn_keys(keys, 1)))
  np.testing.assert_array_equal(engine.calls[1][2], second[[1, 3]])
  third = np.asarray(jax.random.key_data(turn_keys(keys, 2)))
  np.testing.assert_array_equal(engine.calls[2][2], third[[1]])
  assert [s.correct for s in score_dialogues(task, samples)] == [1, 1, 1, 1]


def test_behind_the_last_turn_nothing_is_asked(tokenizer):
  on = [*tokenizer.encode("a"), EOT]
  task, _, [one] = talk(tokenizer, Reciter([on], [on]), turns=2)
  assert len(task.heard) == 1 and one.said == ["a", "the?", "a"] and not one.truncated
  task, _, [one] = talk(tokenizer, Reciter([on]), turns=1)
  assert not task.heard and one.said == ["a"]


@pytest.mark.parametrize("max_new", range(1, 9))
def test_max_new_is_of_all_turns_together(tokenizer, max_new):
  on = [*letters(tokenizer, "ab"), EOT]
  engine = Reciter([on], [on], [on])
  _, _, [one] = talk(tokenizer, engine, max_new=max_new)
  assert one.sampled == min(max_new, 9) and one.truncated == (max_new < 9)
  assert [call[1][0].max_new for call in engine.calls] == [
    n for n in (max_new, max_new - 3, max_new - 6) if n > 0
  ]
  assert len(one.said) % 2, "a reply that cannot be answered is not put"


def test_the_room_is_of_everything(tokenizer, capsys):
  on = [*letters(tokenizer, "ab"), EOT]
  reply = tokenizer.encode("<user>the?<|eot_id|><assistant>")
  prompt = len(ask(tokenizer, "the?", "turns").tokens)
  whole = prompt + 3 + len(reply) + 3
  for room in range(prompt + 3, whole + 1):
    _, _, [one] = talk(tokenizer, Reciter([on], [on]), turns=2, room=room)
    assert len(one) <= room and one.truncated == (room < whole)
    assert len(one.replies) == (room > whole - 3)
    told = capsys.readouterr().err
    assert ("1 of 1 replies" in told and f"in the {room} tokens" in told) == (not one.replies)


def test_no_turns_key_is_a_tokens_key():
  keys = sample_keys(3, 1, np.arange(2), np.arange(2))
  found = [turn_keys(keys, turn) for turn in range(1, 40)]
  found += [token_keys(keys, np.full(2, count)) for count in range(1000)]
  found = np.concatenate([np.asarray(jax.random.key_data(k)) for k in found])
  assert len(np.unique(found, axis=0)) == len(found)


def test_rules_beside_max_new_are_kept(tokenizer):
  on = [*tokenizer.encode("a"), EOT]
  engine = Reciter([on], [on])
  talk(tokenizer, engine, turns=2, temperature=0.7, top_p=0.9, top_k=5)
  first, second = engine.calls[0][1][0], engine.calls[1][1][0]
  assert dataclasses.replace(first, max_new=second.max_new) == second
