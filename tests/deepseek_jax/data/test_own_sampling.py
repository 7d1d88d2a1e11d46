"""How a model samples when it talks: as its own files say, and as it is asked to."""

import pytest

from deepseek_jax.data.asking import sampling, sampling_defaults
from deepseek_jax.data.tokenizer import load_tokenizer
from tests.talker import write_json, write_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra hf")


@pytest.mark.parametrize(
  "generation, expected",
  [
    ({}, (0.6, 0.95, 0)),
    ({"temperature": 0.7, "top_k": 20}, (0.7, 1.0, 20)),
    ({"do_sample": False, "temperature": 0.7}, (0.0, 1.0, 0)),
    ({"top_p": 0.8, "do_sample": True}, (1.0, 0.8, 0)),
  ],
)
def test_a_model_talks_by_its_own_settings(generation, expected, tmp_path):
  write_tokenizer(tmp_path)
  write_json(tmp_path / "generation_config.json", generation)
  found = sampling_defaults(load_tokenizer(tmp_path))
  assert (found["temperature"], found["top_p"], found["top_k"]) == expected


def test_what_is_given_goes_over_the_models_own():
  own = sampling_defaults(None)
  assert sampling(None) == sampling(None, temperature=None, think=None) == own
  assert sampling(None, temperature=0.0, top_k=None, stop=[]) == own | {
    "temperature": 0.0,
    "stop": [],
  }
