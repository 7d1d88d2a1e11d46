"""Each part of a reward against its formula written out, and by property."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.reward_parts import (
  CosineConfig,
  LearnedConfig,
  OverlongConfig,
  RepetitionConfig,
  cosine,
  overlong,
  repetition,
  words_of,
)

LONGEST = st.integers(2, 200)
SHARE = st.floats(0, 1)


def overlong_by_hand(length, longest, buffer):
  """2503.14476, equation 13, case by case."""
  if length <= longest - buffer:
    return 0.0
  if length <= longest:
    return ((longest - buffer) - length) / buffer
  return -1.0


@given(LONGEST, SHARE, SHARE)
def test_overlong_by_hand(longest, at, of):
  length, buffer = round(at * longest), max(1, round(of * longest))
  got = overlong(length, False, longest, buffer)
  np.testing.assert_allclose(got, overlong_by_hand(length, longest, buffer), atol=1e-12)
  assert overlong(longest + 1, False, longest, buffer) == -1
  assert overlong(length, True, longest, buffer) == -1 == overlong(longest, False, longest, buffer)
  assert overlong(length + 1, False, longest, buffer) <= got <= 0


CORNERS = CosineConfig(1.0, 2.0, 1.0, -10.0, 0.0, -12.0)  # of 2502.03373, the last made another


def cosine_by_hand(length, right, longest):
  """As open-r1 has it: from the smallest and largest value of each side, swapped for the wrong."""
  low, high = (1.0, 2.0) if right else (0.0, -10.0)
  return low + 0.5 * (high - low) * (1.0 + np.cos(np.pi * np.float64(length) / longest))


@given(LONGEST, SHARE, st.booleans())
def test_cosine_by_hand(longest, at, right):
  length = round(at * longest)
  got = cosine(length, right, False, longest, CORNERS)
  np.testing.assert_allclose(got, cosine_by_hand(length, right, longest), atol=1e-9)
  assert cosine(length, right, True, longest, CORNERS) == -12


@given(LONGEST, st.booleans())
def test_short_beats_long_when_right_and_loses_when_wrong(longest, right):
  values = [cosine(n, right, False, longest, CORNERS) for n in range(longest + 1)]
  assert all(np.diff(values) < 0) if right else all(np.diff(values) > 0)
  np.testing.assert_allclose([values[0], values[-1]], [2, 1] if right else [-10, 0], atol=1e-9)


def repetition_by_hand(words, ngram):
  """Runs that equal an earlier one, by comparing all with all."""
  starts = range(len(words) - ngram + 1)
  runs = [words[i : i + ngram] for i in starts]
  repeated = [any(runs[i] == runs[j] for j in range(i)) for i in starts]
  return -float(np.mean(repeated)) if repeated else 0.0


@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(1, 4))
def test_repetition_by_hand(words, ngram):
  got = repetition(" ".join(words), ngram)
  np.testing.assert_allclose(got, repetition_by_hand(words, ngram), atol=1e-12)
  assert -1 < got <= 0


@given(st.lists(st.sampled_from("算加减等于"), max_size=30), st.integers(1, 4))
def test_text_without_spaces_repeats_by_characters(characters, ngram):
  got = repetition("".join(characters), ngram)
  assert got == repetition(" ".join(characters), ngram)
  np.testing.assert_allclose(got, repetition_by_hand(characters, ngram), atol=1e-12)


def test_words():
  assert words_of("Wait, wait:\n3+4 是七。 ok") == ["wait,", "wait:", "3+4", "是", "七", "。", "ok"]
  assert words_of("") == []
  loop = "so we go on " * 50
  assert repetition(loop, 3) < -0.9 < repetition("one two three four five six", 3) == 0


@pytest.mark.parametrize(
  ("kind", "fields", "message"),
  [
    (OverlongConfig, {"weight": -1.0}, "reward.overlong.weight is -1.0"),
    (OverlongConfig, {"buffer": 0}, "reward.overlong.buffer is 0"),
    (CosineConfig, {"weight": math.inf}, "reward.cosine.weight is inf"),
    (CosineConfig, {"exceeding": math.nan}, "reward.cosine.exceeding is nan"),
    (RepetitionConfig, {"weight": math.nan}, "reward.repetition.weight is nan"),
    (RepetitionConfig, {"ngram": 0}, "reward.repetition.ngram is 0"),
    (LearnedConfig, {"weight": 1.0}, "reward.learned.model is '' and its weight 1.0"),
    (LearnedConfig, {"model": "runs/reward"}, "set both or neither"),
    (LearnedConfig, {"tasks": "mini"}, "reward.learned.tasks is 'mini', but no model judges them"),
    (LearnedConfig, {"reads": "all"}, "reward.learned.reads is 'all'; use text or answer"),
  ],
)
def test_bad_settings_are_refused(kind, fields, message):
  with pytest.raises(ConfigError, match=message):
    kind(**fields)
