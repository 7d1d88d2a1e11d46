"""Conversations are learnt answer by answer, each as the chat template writes it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.messages import answer_places, read_conversation
from deepseek_jax.data.pipeline import open_batches, read_samples
from deepseek_jax.data.preference_records import read_example
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.samples import SampleBatches
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.train.sft import with_answers
from tests.deepseek_jax.data.test_asking import CHATML, QWEN3, R1, add_chatml, theirs
from tests.talker import LLAMA3, write_tokenizer

pytest.importorskip("tokenizers", reason="needs the extra hf")

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
  {"role": "user", "content": "2 + 2?"},
  {"role": "assistant", "content": "the 4"},
  {"role": "user", "content": "the sum of that and <|eot_id|> 3?"},
  {"role": "assistant", "content": "7\n"},
]
TEMPLATES = {"llama3": LLAMA3, "chatml": CHATML, "qwen3": QWEN3, "r1": R1}


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  end = {"eos_token": "<|eot_id|>"} if request.param == "llama3" else {}
  write_tokenizer(folder, TEMPLATES[request.param], add_bos_token=False, **end)
  if "im_start" in TEMPLATES[request.param]:
    add_chatml(folder)
  return folder


def config(path, tokenizer, *records, **fields):
  path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
  given = {"text_field": "messages", "template": "turns", "length": 400, "batch": 1}
  return DataConfig(
    source="jsonl", path=str(path), tokenizer=str(tokenizer), epochs=1, **(given | fields)
  )


def plain(messages):
  """The messages without a special token that only we do not read as one."""
  return [{**m, "content": m["content"].replace("<|eot_id|> ", "")} for m in messages]


@pytest.mark.parametrize("system", [[], [SYSTEM]], ids=["bare", "system"])
def test_each_answer_is_learnt_as_transformers_writes_the_conversation(folder, system, tmp_path):
  messages = plain([*system, *TURNS])
  samples = read_samples(config(tmp_path / "x.jsonl", folder, {"messages": messages}))
  assert len(samples) == 2
  for sample, place in zip(samples, answer_places(messages), strict=True):
    tokenizer = load_tokenizer(folder)
    if tokenizer.template.source != R1:  # which opens a thought, and so is asked without one
      asked = theirs(folder, messages[:place], add_generation_prompt=True)
      assert list(sample.tokens[: sample.prompt_length]) == asked
    assert list(sample.tokens) == theirs(folder, messages[: place + 1])
    assert messages[place]["content"] in tokenizer.decode(sample.tokens[sample.prompt_length :])


def test_loss_is_on_the_answer_alone_and_every_answer_is_learnt_once(folder, tmp_path):
  tokenizer = load_tokenizer(folder)
  samples = read_samples(config(tmp_path / "x.jsonl", folder, {"messages": TURNS}))
  batches = SampleBatches(samples, 1, 400, tokenizer.pad_id, 0)
  learnt = []
  for batch in batches:
    learnt += batch.tokens_BT[batch.loss_mask_BT > 0].tolist()
  answers = [[*s.tokens[s.prompt_length :]] for s in samples]
  assert sorted(learnt) == sorted(sum(answers, []))


def sharegpt(messages):
  names = {"user": "human", "assistant": "gpt", "system": "system"}
  return [{"from": names[m["role"]], "value": m["content"]} for m in messages]


spoken = st.text("ab <>\n", min_size=1).filter(str.strip)
talks = st.lists(st.tuples(spoken, spoken), min_size=1, max_size=4)


@given(talks, st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_all_forms_of_a_conversation_are_the_same_one(pairs, system, greeting, question):
  talk = [SYSTEM] if system else []
  talk += [{"role": "assistant", "content": "Hello"}] if greeting else []
  for asked, answered in pairs:
    talk += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
  talk += [{"role": "user", "content": "and?"}] if question else []
  read = read_conversation({"messages": talk, "tools": None}, "messages")
  assert read == tuple(talk) == read_conversation({"x": sharegpt(talk)}, "x")
  apart = {"x": talk[1:] if system else talk, "system": SYSTEM["content"] if system else ""}
  assert read_conversation(apart, "x") == read
  assert [read[i]["content"] for i in answer_places(read)] == [answer for _, answer in pairs]


def test_preferences_are_read_in_sharegpts_form_too():
  chosen, rejected = TURNS, [*TURNS[:-1], {"role": "assistant", "content": "8"}]
  theirs = {"chosen": sharegpt(chosen), "rejected": sharegpt(rejected)}
  assert read_example(theirs) == read_example({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize(
  ("record", "told"),
  [
    ({"messages": []}, "no list of messages"),
    ({"messages": TURNS[:1]}, "gets no answer"),
    ({"messages": TURNS[1:2]}, "gets no answer"),
    ({"messages": [TURNS[0], {"role": "assistant", "content": " "}]}, "empty answer"),
    ({"messages": [TURNS[0], {"role": "tool", "content": "4"}, TURNS[1]]}, "'tool'.*a role"),
    ({"messages": [{"from": "observation", "value": "4"}]}, "observation"),
    ({"messages": [TURNS[0], {**TURNS[1], "tool_calls": [{"id": 1}]}]}, "'tool_calls' in"),
    ({"messages": [TURNS[0], {**TURNS[1], "reasoning_content": "2+2"}]}, "reasoning_content"),
    ({"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}, "'weight'"),
    ({"messages": [TURNS[0], {"role": "assistant", "content": None}]}, "content that is text"),
    ({"messages": TURNS, "tools": [{"name": "add"}]}, "'tools'"),
  ],
)
def test_what_would_be_missing_is_left_out_and_told(record, told, folder, tmp_path, capsys):
  with pytest.raises(RecordError, match=told):
    read_conversation(record, "messages")
  good = {"messages": [{**m, "tool_calls": None, "weight": 1} for m in TURNS], "tools": []}
  data = config(tmp_path / "x.jsonl", folder, record, good)
  assert len(read_samples(data)) == 2
  assert "x.jsonl, line 1" in capsys.readouterr().err


def test_an_answer_that_is_too_long_is_told_by_its_number(folder, tmp_path, capsys):
  long = [*TURNS, TURNS[0], {"role": "assistant", "content": "x" * 400}]
  assert len(read_samples(config(tmp_path / "x.jsonl", folder, {"messages": long}))) == 2
  assert "line 1, answer 3, has" in capsys.readouterr().err


STRICT = (
  "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content ~ eos_token }}{% endfor %}"
)


def test_a_conversation_that_the_template_refuses_is_left_out_and_told(tmp_path, capsys):
  write_tokenizer(tmp_path, STRICT, add_bos_token=False)
  odd = [TURNS[0], *TURNS]
  data = config(tmp_path / "x.jsonl", tmp_path, {"messages": odd}, {"messages": TURNS[:2]})
  assert len(read_samples(data)) == 1
  whole = [int((batch.segments_BT > 0).sum()) for batch in open_batches(data)]
  assert sum(whole) == len(read_samples(data)[0].tokens)
  told = capsys.readouterr().err
  assert "line 1, has a conversation that cannot be learnt" in told and "alternate" in told


def test_running_text_holds_a_conversation_once_and_learns_all_of_it(folder, tmp_path):
  data = config(tmp_path / "x.jsonl", folder, {"messages": TURNS}, packing="documents")
  (batch,) = open_batches(data)
  last = read_samples(data)[-1]
  assert int((batch.segments_BT > 0).sum()) == len(last.tokens)
  with pytest.raises(ConfigError, match="experiments.sft"):
    next(open_batches(config(tmp_path / "x.jsonl", folder, {"messages": TURNS}, loss="answer")))


@pytest.mark.parametrize("tokenizer", ["word", "byte", None])
def test_a_model_without_turns_refuses(tokenizer, tmp_path):
  if tokenizer is None:
    write_tokenizer(tmp_path)
  data = config(tmp_path / "x.jsonl", tokenizer or tmp_path, {"messages": TURNS})
  with pytest.raises(ConfigError, match="has no form for them.*two texts"):
    read_samples(data)


def test_turns_are_chosen_by_the_fields_name_and_another_form_refuses(folder, tmp_path):
  data = {"source": "jsonl", "path": "x", "tokenizer": str(folder), "text_field": "messages"}
  assert with_answers({"data": data})["data"]["template"] == "turns"
  data |= {"text_field": "text"}
  assert with_answers({"data": data})["data"]["template"] == "plain"
  with pytest.raises(ConfigError, match="data.template is 'plain'; set it to turns"):
    read_samples(config(tmp_path / "x.jsonl", folder, {"messages": TURNS}, template="plain"))
