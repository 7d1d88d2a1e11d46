"""From a conversation to the tokens that a model goes on from.

A conversation is a list of messages {"role": system | user | assistant, "content": TEXT}. Which
text it makes is for the tokenizer to say:

- one with a chat template: as the template has it;
- one without, but with DeepSeek's special tokens: in the form of V3 and R1;
- any other, among them the minis' word and byte tokenizers, whose models were taught no turns: the
  system texts and the last user's message as they are, so that each question stands alone.

Earlier turns of the assistant keep only what follows their last `</think>`. What is put into a
rendered conversation as a token cannot be forged: where a message spells out a special token, it is
cut inside, so that it is read as ordinary text. (transformers lets it be the token.) The text after
decoding is the same. A prompt that is plain text (`text_prompt`) may name any token, and so may an
answer that is learnt.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.chat_template import DEEPSEEK, ChatTemplate
from deepseek_jax.data.hf_tokenizer import SAID, HFTokenizer
from deepseek_jax.data.special_tokens import ASSISTANT, BOS, END_THINK, EOS, THINK, USER
from deepseek_jax.data.tokenizer import Tokenizer

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")
OPENING = THINK + "\n"  # of a thought
_CUTS = [chr(c) for c in range(0xFDD0, 0xFDF0)]  # Unicode keeps these for use inside a program


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What a model reads before it answers; `opened`: it ends inside a thought."""

  text: str
  tokens: list[int]
  opened: bool = False


@dataclasses.dataclass
class Conversation:
  """A growing conversation, of which answers are kept without their thoughts."""

  system: str = ""
  turns: list[Message] = dataclasses.field(default_factory=list)

  def ask(self, text: str) -> None:
    """Adds a question."""
    self.turns.append({"role": "user", "content": text})

  def answer(self, text: str) -> None:
    """Adds the answer to it."""
    self.turns.append({"role": "assistant", "content": without_thought(text)})

  def clear(self) -> None:
    """Starts over, with the same system text."""
    self.turns.clear()

  @property
  def messages(self) -> list[Message]:
    """All messages, the system's first."""
    first = [{"role": "system", "content": self.system}] if self.system else []
    return [*first, *self.turns]


def text_prompt(tokenizer: Tokenizer, text: str) -> Prompt:
  """A text to be gone on with, as it is, behind what texts begin with, once."""
  tokens, begin = tokenizer.encode(text), begin_ids(tokenizer)
  tokens = tokens if tokens[: len(begin)] == begin else begin + tokens
  return Prompt(text, tokens, text.rstrip().endswith(THINK))


def chat_prompt(
  tokenizer: Tokenizer, messages: Sequence[Message], think: bool | None = None
) -> Prompt:
  """The conversation up to where the assistant is to speak.

  `think` True has the answer begin inside a thought, False before or without one; None leaves it to
  the template, and where that is ours, begins a thought if `<think>` is a token.

  Raises:
    ConfigError: the messages are no conversation, or the template fails.
  """
  _check(messages)
  messages = [_spoken(m) for m in messages]
  if not has_turns(tokenizer):
    return _alone(tokenizer, messages, think)
  assert isinstance(tokenizer, HFTokenizer)
  cut = _unused(messages)
  return _prompt(tokenizer, _rendered(tokenizer, _guarded(tokenizer, messages, cut), think), cut)


def chat_answer(
  tokenizer: HFTokenizer, messages: Sequence[Message], answer: str
) -> tuple[Prompt, list[int] | None]:
  """The prompt of a conversation, and the tokens by which the template goes on with an answer.

  They are None where it does not: where it writes something else behind a question that was
  answered than where one is to be, or drops words of the answer, such as its thought.
  """
  _check(messages)
  messages = [_spoken(m) for m in messages]
  cut = _unused([*messages, {"content": answer}])
  guarded = _guarded(tokenizer, messages, cut)
  opening = _rendered(tokenizer, guarded, None)
  prompt = _prompt(tokenizer, opening, cut)
  if tokenizer.template is None:
    return prompt, None
  turns = [*guarded, {"role": "assistant", "content": answer}]
  try:
    whole = tokenizer.template.render(turns, add_generation_prompt=False)
  except ConfigError:
    return prompt, None
  rest = whole[len(opening) :]
  told = OPENING + rest if prompt.opened and THINK in answer else rest
  if not whole.startswith(opening) or _letters(answer) not in _letters(told):
    return prompt, None
  tokens, length = _encoded(tokenizer, whole, cut), len(prompt.tokens)
  if tokens[:length] == prompt.tokens:
    return prompt, tokens[length:]
  # The prompt's last token and the answer's first would be one.
  return prompt, tokenizer.encode_on(rest.replace(cut, ""), prompt.tokens)


def chat_further(tokenizer: HFTokenizer, text: str, before: Sequence[int]) -> Prompt:
  """A user's message behind an answer, from the token that ended it to where the assistant speaks.

  `before` are the tokens said so far, which stay as they are: a thought that a template would leave
  out of a turn that is over is still read.
  """
  first = {"role": "user", "content": "1"}
  turns = [first, {"role": "assistant", "content": SAID}, {"role": "user", "content": text}]
  cut = _unused(turns)
  marked = _rendered(tokenizer, _guarded(tokenizer, turns, cut), None)
  _, found, behind = marked.partition(SAID)
  require(found != "", "the chat template leaves out what was answered; ask with template plain.")
  stops = tokenizer.stop_ids
  end = tokenizer.spelling(next((i for i in tokenizer.turn_end if i in stops), tokenizer.eos_id))
  blank, found, rest = behind.partition(end) if end else (behind, "", "")
  return _prompt(tokenizer, rest if found and not blank.strip() else behind, cut, before)


def encode_on(tokenizer: Tokenizer, text: str, before: Sequence[int]) -> list[int]:
  """Tokens of a text that goes on from those `before` it; see `HFTokenizer.encode_on`."""
  if isinstance(tokenizer, HFTokenizer) and before:
    return tokenizer.encode_on(text, before)
  return tokenizer.encode(text)


def has_turns(tokenizer: Tokenizer) -> bool:
  """Whether conversations have a form of their own, by a template or DeepSeek's tokens."""
  if not isinstance(tokenizer, HFTokenizer):
    return False
  deepseek = all(tokenizer.id_of(t) is not None for t in (BOS, EOS, USER, ASSISTANT))
  return tokenizer.template is not None or deepseek


def without_thought(text: str) -> str:
  """What follows the last `</think>` of an answer, all of it if there is none."""
  return text.rpartition(END_THINK)[2]


def stop_ids(tokenizer: Tokenizer | None) -> tuple[int, ...]:
  """The tokens that end an answer."""
  if tokenizer is None:
    return ()
  return tokenizer.stop_ids if isinstance(tokenizer, HFTokenizer) else (tokenizer.eos_id,)


def begin_ids(tokenizer: Tokenizer) -> list[int]:
  """The tokens that stand before a text: none, bos, or what tokenizer.json puts there."""
  if isinstance(tokenizer, HFTokenizer):
    return list(tokenizer.begin)
  return [] if tokenizer.bos_id is None else [tokenizer.bos_id]


def _check(messages: Sequence[Message]) -> None:
  require(
    not isinstance(messages, str) and len(messages) > 0,
    'a conversation is a list of messages like {"role": "user", "content": "Hello"}; give one.',
  )
  for i, message in enumerate(messages):
    known = isinstance(message, Mapping) and message.get("role") in ROLES
    require(
      known and isinstance(message.get("content"), str),
      f"message {i} is {message!r:.100}; it must have a role ({', '.join(ROLES)}) and a content "
      "that is text.",
    )


def _spoken(message: Message) -> Message:
  """A message, an assistant's without its thought."""
  if message["role"] != "assistant":
    return message
  return {**message, "content": without_thought(message["content"])}


def _alone(tokenizer: Tokenizer, messages: Sequence[Message], think: bool | None) -> Prompt:
  """The prompt of a tokenizer without turns."""
  asked = [m["content"] for m in messages if m["role"] == "user"]
  require(len(asked) > 0, "the conversation asks nothing; add a message of the user.")
  system = [m["content"] for m in messages if m["role"] == "system"]
  text = "\n\n".join([*system, asked[-1]])
  return text_prompt(tokenizer, f"{text.rstrip()} {OPENING}" if think else text)


def _guarded(tokenizer: HFTokenizer, messages: Sequence[Message], cut: str) -> list[dict[str, str]]:
  """The messages, with a mark inside each special token that they spell out."""
  marks = sorted(tokenizer.markers, key=len, reverse=True)
  forged = re.compile("|".join(map(re.escape, marks)) or r"(?!)")  # which matches nothing
  return [{**m, "content": _cut(m["content"], forged, cut)} for m in messages]


def _rendered(tokenizer: HFTokenizer, messages: Sequence[Message], think: bool | None) -> str:
  """The conversation as text, up to where the assistant is to speak."""
  template = tokenizer.template
  if template is None:
    template = ChatTemplate(DEEPSEEK, {}, "the built-in chat template")
    think = tokenizer.id_of(THINK) is not None if think is None else think
  variables = {} if think is None else {"thinking": think, "enable_thinking": think}
  return _opening(template.render(messages, **variables), tokenizer, think)


def _prompt(tokenizer: HFTokenizer, marked: str, cut: str, before: Sequence[int] = ()) -> Prompt:
  """The prompt that a text with marks in it is, behind the tokens `before` it."""
  text = marked.replace(cut, "")
  return Prompt(text, _encoded(tokenizer, marked, cut, before), text.rstrip().endswith(THINK))


def _encoded(
  tokenizer: HFTokenizer, marked: str, cut: str, before: Sequence[int] = ()
) -> list[int]:
  """The tokens of a text, none of which lies on both sides of a mark."""
  tokens: list[int] = []
  for part in marked.split(cut):
    tokens += encode_on(tokenizer, part, tokens or before)
  return tokens


def _letters(text: str) -> str:
  """A text without its blanks, which templates add and remove."""
  return "".join(text.split())


def _opening(text: str, tokenizer: HFTokenizer, think: bool | None) -> str:
  """The rendered text with the thought's opening that is asked for, never twice."""
  opened = text.rstrip().endswith(THINK)
  if think and not opened:
    require(
      tokenizer.id_of(THINK) is not None,
      f"the tokenizer has no token {THINK}; leave thinking to the model.",
    )
    return text + OPENING
  return text.rstrip().removesuffix(THINK) if opened and think is False else text


def _unused(messages: Iterable[Message]) -> str:
  """A character for marking cuts that occurs in no message."""
  text = "".join(m["content"] for m in messages)
  unused = next((c for c in _CUTS if c not in text), None)
  if unused is None:
    raise ConfigError("the messages use all of U+FDD0 to U+FDEF, which are no characters.")
  return unused


def _cut(text: str, forged: re.Pattern[str], cut: str) -> str:
  """The text with a mark behind the first character of each special token it spells out."""
  return forged.sub(lambda found: found[0][0] + cut + found[0][1:], text)
