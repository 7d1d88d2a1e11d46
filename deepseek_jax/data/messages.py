"""Lists of messages in records, as chat datasets have them: who speaks, and what is said.

{"role": system | user | assistant, "content": TEXT}   Hugging Face's and OpenAI's
{"from": system | human | gpt, "value": TEXT}          ShareGPT's
"""

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.data.conversation import ROLES, Message
from deepseek_jax.data.records import RecordError, whole_text

_SPEAKERS = {"human": "user", "gpt": "assistant"}
# What of a message and of a record would be missing from what is learnt.
_MORE = ("tool_calls", "function_call", "reasoning_content", "weight")
BESIDE = ("system", "tools")


def read_messages(value: Any, name: str) -> tuple[Message, ...]:
  """The messages of a list with role and content alone; RecordError if it is no such list."""
  if isinstance(value, str) or not isinstance(value, Sequence) or not value:
    raise RecordError(f"has no text and no list of messages in field {name!r}.")
  return tuple(_message(message, name) for message in value)


def read_conversation(record: Mapping[str, Any], name: str) -> tuple[Message, ...]:
  """The conversation in a field, behind the record's `system` text if it has one.

  RecordError if nothing in it can be learnt, or not all of it: tools, and thoughts and weights in
  fields of their own.
  """
  messages = read_messages(record[name], name)
  for message in record[name]:
    more = [key for key in _MORE if message.get(key) not in (None, "", [], {}, 1)]
    if more:
      raise RecordError(f"has {more[0]!r} in a message of field {name!r}, which is not learnt.")
  if record.get("tools"):
    raise RecordError("has 'tools', whose use is not learnt.")
  system = record.get("system")
  if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
    messages = ({"role": "system", "content": whole_text(system)}, *messages)
  answers = [messages[place]["content"] for place in answer_places(messages)]
  if not answers:
    raise RecordError(f"has a conversation in field {name!r} in which the user gets no answer.")
  if not all(map(str.strip, answers)):
    raise RecordError(f"has an empty answer in field {name!r}.")
  return messages


def answer_places(messages: Sequence[Message]) -> list[int]:
  """Which messages are the assistant's, behind one of the user's at least."""
  roles = [message["role"] for message in messages]
  return [i for i, role in enumerate(roles) if role == "assistant" and "user" in roles[:i]]


def _message(message: Any, name: str) -> Message:
  fields = message if isinstance(message, Mapping) else {}
  if "role" not in fields and "from" in fields:
    speaker = fields["from"]
    role, content = _SPEAKERS.get(speaker, speaker), fields.get("value")
  else:
    role, content = fields.get("role"), fields.get("content")
  if role not in ROLES or not isinstance(content, str):
    raise RecordError(
      f"has {message!r:.80} in field {name!r}; a message has a role ({', '.join(ROLES)}) and a "
      "content that is text."
    )
  return {"role": role, "content": whole_text(content)}
