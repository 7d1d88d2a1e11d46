"""Documents, and the token sequences that are learnt from."""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.data.asking import PLAIN, TURNS, learn
from deepseek_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Document:
  """A text to learn; `prompt` stands before it and can be left out of the loss."""

  text: str
  prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
  """Tokens of one document, the last being eos; the first `prompt_length` are its prompt."""

  tokens: Sequence[int]
  prompt_length: int = 0

  def __len__(self) -> int:
    return len(self.tokens)


def make_sample(tokenizer: Tokenizer, document: Document, form: str = PLAIN) -> Sample:
  """Tokens of prompt and text in a form of `asking.ask`, with the token that ends them.

  A blank before the text keeps it apart from a plain prompt, and is no part of a turn.
  """
  text = document.text.removeprefix(" ") if form == TURNS else document.text
  return Sample(*learn(tokenizer, document.prompt, text, form))
