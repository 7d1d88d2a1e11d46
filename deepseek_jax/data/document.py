"""Documents, and the token sequences that are learnt from."""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.data.records import whole_text
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


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
  """What a model reads before it answers: the prompt behind the begin token, if there is one."""
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  return begin + tokenizer.encode(whole_text(prompt))


def make_sample(tokenizer: Tokenizer, document: Document) -> Sample:
  """Tokens of prompt and text, ended by eos."""
  prompt = prompt_tokens(tokenizer, document.prompt)
  return Sample(
    [*prompt, *tokenizer.encode(whole_text(document.text)), tokenizer.eos_id], len(prompt)
  )
