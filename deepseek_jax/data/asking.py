"""One way to talk to a model: how it is asked, what it learns, where its answer ends.

A question is asked in a named form: `turns`, a user's message as the model was taught to read it;
`plain`, the text as it is; or a template of `tasks.templates` around it. `own_form` is the one that
a model's tokenizer has. Every door asks by `ask`, learns by `learn`, and stops by
`conversation.stop_ids`; what it asked with is in the run's config or protocol.
"""

from collections.abc import Sequence
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.conversation import (
  OPENING,
  Message,
  Prompt,
  begin_ids,
  chat_answer,
  chat_further,
  chat_prompt,
  encode_on,
  has_turns,
  text_prompt,
)
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.records import whole_text
from deepseek_jax.data.special_tokens import END_THINK, THINK
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.tasks.templates import apply_further, apply_template

PLAIN, TURNS = "plain", "turns"
R1_SAMPLING = {"temperature": 0.6, "top_p": 0.95}  # 2501.12948, section 3


def own_form(tokenizer: Tokenizer) -> str:
  """`turns` where the tokenizer has them, else `plain`."""
  return TURNS if has_turns(tokenizer) else PLAIN


def ask(tokenizer: Tokenizer, question: str, form: str, policy: str = "") -> Prompt:
  """The prompt that asks `question` in a form; ConfigError if there is none of that name.

  A `policy` stands before it: in turns as the system's, or at the head of the user's where the
  template has no turn of the system; else before the whole text.
  """
  question, policy = whole_text(question), whole_text(policy)
  if form != TURNS:
    text = apply_template(form, question)
    return text_prompt(tokenizer, f"{policy}\n\n{text}" if policy else text)
  _require_turns(tokenizer)
  if policy:
    return _under_policy(tokenizer, question, policy)
  return chat_prompt(tokenizer, [{"role": "user", "content": question}])


def ask_further(tokenizer: Tokenizer, text: str, form: str, before: Sequence[int]) -> Prompt:
  """What asks `text` behind an answer: tokens to be appended to those `before`, as they were said.

  In turns it is a user's message. ConfigError as by `ask`, or if the tokenizer cannot spell it.
  """
  text = whole_text(text)
  if form == TURNS:
    _require_turns(tokenizer)
    assert isinstance(tokenizer, HFTokenizer)
    return chat_further(tokenizer, text, before)
  text = apply_further(form, text)
  return Prompt(text, encode_on(tokenizer, text, before), text.rstrip().endswith(THINK))


def _under_policy(tokenizer: Tokenizer, question: str, policy: str) -> Prompt:
  """In turns; templates without a system's turn refuse one, or leave its text out."""
  user: Message = {"role": "user", "content": question}
  try:
    prompt = chat_prompt(tokenizer, [{"role": "system", "content": policy}, user])
    if "".join(policy.split()) in "".join(prompt.text.split()):
      return prompt
  except ConfigError:
    pass
  return chat_prompt(tokenizer, [{"role": "user", "content": f"{policy}\n\n{question}"}])


def learn(tokenizer: Tokenizer, question: str, answer: str, form: str) -> tuple[list[int], int]:
  """The tokens of a question with its answer and its end, and how many of them are the prompt.

  In turns they are what the template makes of both, if that begins with the prompt and keeps the
  whole answer. Else, as with templates that drop thoughts, the answer stands behind the prompt as
  it is: where that opens a thought, an answer that begins with `<think>` goes on from there, and
  one without a thought is asked for without. One end token stands behind the answer, whether the
  text spells it or not.
  """
  question, answer = whole_text(question), whole_text(answer)
  if form != TURNS:
    prompt = ask(tokenizer, question, form)
    tokens = encode_on(tokenizer, answer, prompt.tokens if question else ())
    begin = begin_ids(tokenizer)
    if not question and tokens[: len(begin)] == begin:
      tokens = tokens[len(begin) :]
    return _ended(prompt.tokens, tokens, (tokenizer.eos_id,)), len(prompt.tokens)
  return learn_turns(tokenizer, [{"role": "user", "content": question}], answer)


def learn_turns(
  tokenizer: Tokenizer, messages: Sequence[Message], answer: str
) -> tuple[list[int], int]:
  """As `learn` in turns, of an answer to a conversation of any length."""
  _require_turns(tokenizer)
  assert isinstance(tokenizer, HFTokenizer)
  end, stops = tokenizer.turn_end, tokenizer.stop_ids
  ending = next((i for i in end if i in stops), None)
  if ending is None:
    end = (tokenizer.eos_id,)
  else:
    answer = answer.removesuffix(tokenizer.spelling(ending))
  prompt, rest = chat_answer(tokenizer, messages, answer)
  if rest is not None and ending is not None:
    return [*prompt.tokens, *rest], len(prompt.tokens)
  if prompt.opened and END_THINK not in answer:
    prompt = chat_prompt(tokenizer, messages, think=False)
  elif prompt.opened:
    answer = answer.lstrip().removeprefix(THINK).lstrip("\n")
  tokens = encode_on(tokenizer, answer, prompt.tokens)
  return _ended(prompt.tokens, tokens, end), len(prompt.tokens)


def _require_turns(tokenizer: Tokenizer) -> None:
  require(
    has_turns(tokenizer),
    "the tokenizer has no form for conversations (no chat template, and not DeepSeek's tokens); "
    "ask with template plain.",
  )


def _ended(prompt: list[int], answer: list[int], end: Sequence[int]) -> list[int]:
  """Prompt, answer and end, of which the answer may spell the first token."""
  return [*prompt, *(answer[:-1] if answer[-1:] == [end[0]] else answer), *end]


def spoken(prompt: Prompt, text: str) -> str:
  """All that was said, for whoever judges it: a thought that the prompt opened is the answer's."""
  return OPENING + text if prompt.opened else text


def sampling(tokenizer: Tokenizer | None, **given: Any) -> dict[str, Any]:
  """How to talk: what is given and not None, and for the rest of sampling `sampling_defaults`."""
  chosen = {name: value for name, value in given.items() if value is not None}
  return sampling_defaults(tokenizer) | chosen


def sampling_defaults(tokenizer: Tokenizer | None) -> dict[str, Any]:
  """`temperature`, `top_p` and `top_k` for talking: the model's own, else R1's (2501.12948, 3)."""
  fields = tokenizer.generation if isinstance(tokenizer, HFTokenizer) else {}
  names = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
  own = {name: fields[name] for name in names if isinstance(fields.get(name), (int, float))}
  if not own:
    return {**names, **R1_SAMPLING}
  greedy = {"temperature": 0.0} if fields.get("do_sample") is False else {}
  return {**names, **own, **greedy}
