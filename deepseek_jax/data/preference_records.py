"""Records of preferences: pairs and single labels, as Hugging Face's datasets have them.

  {"prompt", "chosen", "rejected"}   a pair
  {"prompt", "response", "label"}    a single label: true or 1 what is wanted (safe), false or 0 not

Each is a text or a list of messages {"role", "content"}. An answer that is a list ends with the
assistant's message; what stands before that is the conversation, or its end behind a `prompt` that
is a list. A prompt that is a text beside an answer that is a whole conversation must be a user's
message in it, as in ultrafeedback_binarized; beside whole conversations it may be missing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from deepseek_jax.data.conversation import Message
from deepseek_jax.data.messages import read_messages
from deepseek_jax.data.records import RecordError, whole_text

Question = str | tuple[Message, ...]  # a text, or the conversation up to the answer


@dataclasses.dataclass(frozen=True)
class Example:
  """A question and its answers: the chosen and the rejected one, or one with its label."""

  question: Question
  answers: tuple[str, ...]
  label: float | None = None  # 0 or 1; None: a pair


def read_example(record: Any) -> Example:
  """The example that a record holds; RecordError says what is wrong with one that holds none."""
  if not isinstance(record, Mapping):
    raise RecordError("is not a record with fields.")
  fields = {name: value for name, value in record.items() if value is not None}
  label = None
  if "chosen" in fields or "rejected" in fields:
    names: tuple[str, ...] = ("chosen", "rejected")
  elif "response" in fields or "label" in fields:
    names, label = ("response",), _label(fields.get("label"))
  else:
    there = ", ".join(map(str, record))
    raise RecordError(f"has neither chosen and rejected nor response and label (fields: {there}).")
  read = [_answer(fields, name) for name in names]
  questions = [question for question, _ in read]
  if any(question != questions[0] for question in questions):
    raise RecordError("has answers to different conversations; they must differ in the last turn.")
  answers = tuple(answer for _, answer in read)
  if len(set(answers)) < len(answers):
    raise RecordError("has the same text for chosen and rejected.")
  return Example(questions[0], answers, label)


def _label(value: Any) -> float:
  if isinstance(value, (bool, int, float)) and value in (0, 1):
    return float(value)
  raise RecordError(f"has {value!r:.40} in field 'label'; it must be true or false, 1 or 0.")


def _answer(fields: Mapping[str, Any], name: str) -> tuple[Question, str]:
  """The question and the text of the answer in a field."""
  prompt, value = fields.get("prompt"), fields.get(name)
  if isinstance(value, str):
    if prompt is None:
      raise RecordError(f"has a text in field {name!r} and no field 'prompt'.")
    question = whole_text(prompt) if isinstance(prompt, str) else read_messages(prompt, "prompt")
    return question, _said(value, name)
  messages = read_messages(value, name)
  *before, last = messages
  if last["role"] != "assistant":
    raise RecordError(f"has a conversation in field {name!r} that does not end with the assistant.")
  return _conversation(prompt, tuple(before), name), _said(last["content"], name)


def _conversation(prompt: Any, before: tuple[Message, ...], name: str) -> Question:
  """What an answer that is a list of messages answers, of which `before` stand before it."""
  if prompt is None or (isinstance(prompt, str) and before):
    users = [m["content"] for m in before if m["role"] == "user"]
    if not users or (prompt is not None and whole_text(prompt) not in users):
      raise RecordError(f"has a conversation in field {name!r} in which the prompt is not asked.")
    return before
  if isinstance(prompt, str):
    return whole_text(prompt)
  given = read_messages(prompt, "prompt")
  return before if before[: len(given)] == given else given + before


def _said(text: str, name: str) -> str:
  if not text.strip():
    raise RecordError(f"has an empty answer in field {name!r}.")
  return whole_text(text)
