"""Fill-in-the-middle, prefix-suffix-middle (2412.19437, section 4.1).

A share of the documents, before packing, becomes `begin PREFIX hole SUFFIX end MIDDLE eos`. The
cuts fall between tokens; prefix, middle and suffix together are the document, unchanged.
"""

import dataclasses

import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.document import Sample
from deepseek_jax.data.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE
from deepseek_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle:
  """Rearranges a sample with probability `rate`. Begin tokens and eos keep their places."""

  rate: float
  begin: int
  hole: int
  end: int
  bos: int | None = None

  @classmethod
  def of(cls, tokenizer: Tokenizer, rate: float) -> "FillInTheMiddle":
    """With the tokenizer's own markers; ConfigError if it has none."""
    require(0.0 <= rate <= 1.0, f"data.fim_rate is {rate}; it must be between 0 and 1.")
    ids = [tokenizer.id_of(token) for token in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    begin, hole, end = ids
    if begin is None or hole is None or end is None:
      raise ConfigError("the tokenizer has no fill-in-the-middle tokens; set data.fim_rate to 0.")
    return cls(rate, begin, hole, end, tokenizer.bos_id)

  def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample, rearranged or not. All tokens of a rearranged one are learnt from."""
    if rng.random() >= self.rate:
      return sample
    tokens = list(sample.tokens)
    opening = tokens[:1] if self.bos is not None and tokens[:1] == [self.bos] else []
    body, ending = tokens[len(opening) : -1], tokens[-1:]
    first, second = sorted(rng.integers(0, len(body) + 1, size=2).tolist())
    prefix, middle, suffix = body[:first], body[first:second], body[second:]
    rearranged = [self.begin, *prefix, self.hole, *suffix, self.end, *middle]
    return Sample([*opening, *rearranged, *ending])
