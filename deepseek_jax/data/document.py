"""Documents, and the token sequences that are learnt from."""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import PLAIN, TURNS, learn, learn_turns
from deepseek_jax.data.conversation import Message, has_turns
from deepseek_jax.data.messages import answer_places
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Document:
  """A text to learn; `prompt` stands before it and can be left out of the loss.

  Or, in place of both, a conversation whose answers are learnt.
  """

  text: str = ""
  prompt: str = ""
  messages: tuple[Message, ...] = ()

  @property
  def empty(self) -> bool:
    """Whether there is nothing to learn."""
    return not (self.text or self.messages)


@dataclasses.dataclass(frozen=True)
class Sample:
  """Tokens of one document, the last being eos; the first `prompt_length` are its prompt."""

  tokens: Sequence[int]
  prompt_length: int = 0

  def __len__(self) -> int:
    return len(self.tokens)


def make_sample(tokenizer: Tokenizer, document: Document, form: str = PLAIN) -> Sample:
  """Tokens of prompt and text in a form of `asking.ask`, with the token that ends them.

  Of a conversation they are all up to its last answer. A blank before a text keeps it apart from a
  plain prompt, and is no part of a turn.
  """
  if document.messages:
    return _answered(tokenizer, document.messages, answer_places(document.messages)[-1], form)
  text = document.text.removeprefix(" ") if form == TURNS else document.text
  return Sample(*learn(tokenizer, document.prompt, text, form))


def make_samples(tokenizer: Tokenizer, document: Document, form: str = PLAIN) -> list[Sample]:
  """As `make_sample`, but a sample for each answer of a conversation, with all before it as prompt.

  So each is read as the model will be asked: templates write earlier answers otherwise than the
  last, as without their thoughts.
  """
  if not document.messages:
    return [make_sample(tokenizer, document, form)]
  places = answer_places(document.messages)
  return [_answered(tokenizer, document.messages, place, form) for place in places]


def _answered(tokenizer: Tokenizer, messages: Sequence[Message], place: int, form: str) -> Sample:
  """The answer at a place of a conversation; RecordError if the template refuses it."""
  require(
    has_turns(tokenizer),
    "a list of messages is learnt in turns, and the tokenizer has no form for them (no chat "
    "template, and not DeepSeek's tokens); write the question and the answer as two texts, and "
    "name their fields in data.prompt_field and data.text_field.",
  )
  require(
    form == TURNS,
    f"a list of messages is learnt in turns, and data.template is {form!r}; set it to {TURNS}.",
  )
  try:
    return Sample(*learn_turns(tokenizer, messages[:place], messages[place]["content"]))
  except ConfigError as error:
    raise RecordError(f"has a conversation that cannot be learnt: {error}") from error
