"""Preferences: the forms that records have, those that are refused, and what batches hold."""

import json

import pytest

from deepseek_jax.config import ConfigError, from_dict
from deepseek_jax.data.asking import TURNS
from deepseek_jax.data.preference_batches import PreferenceBatches, row_width
from deepseek_jax.data.preference_config import PreferenceConfig
from deepseek_jax.data.preference_records import Example, read_example
from deepseek_jax.data.preferences import Preference, read_preferences, text_tokens
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.tasks.registry import load_task
from tests.deepseek_jax.data.test_conversation import deepseek, r1  # noqa: F401

BYTES = load_tokenizer("byte")


def user(text):
  return {"role": "user", "content": text}


def said(text):
  return {"role": "assistant", "content": text}


PAIR = Example((user("q"),), ("good", "bad"))
FORMS = {
  "texts": (
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    Example("q", ("good", "bad")),
  ),
  "ultrafeedback: a text and whole conversations": (
    {"prompt": "q", "chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
    PAIR,
  ),
  "explicit: messages and the last turns": (
    {"prompt": [user("q")], "chosen": [said("good")], "rejected": [said("bad")]},
    PAIR,
  ),
  "implicit: whole conversations alone": (
    {"chosen": [user("q"), said("good")], "rejected": [user("q"), said("bad")]},
    PAIR,
  ),
  "messages and whole conversations": (
    {"prompt": [user("q")], "chosen": [user("q"), said("good")], "rejected": [said("bad")]},
    PAIR,
  ),
  "a text and the last turns": (
    {"prompt": "q", "chosen": [said("good")], "rejected": [said("bad")]},
    Example("q", ("good", "bad")),
  ),
  "further fields, and null ones": (
    {"prompt": "q", "chosen": "good", "rejected": "bad", "label": 1, "score": 7, "messages": None},
    Example("q", ("good", "bad")),
  ),
  "a label": ({"prompt": "q", "response": "r", "label": True}, Example("q", ("r",), 1.0)),
  "a label of a conversation": (
    {"prompt": [user("q")], "response": [said("r")], "label": 0},
    Example((user("q"),), ("r",), 0.0),
  ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_records(form):
  record, wanted = FORMS[form]
  assert read_example(record) == wanted


BAD = {
  "no record": ("text", "is not a record"),
  "nothing known": ({"question": "q"}, "neither chosen and rejected nor .*fields: question"),
  "no rejected": ({"prompt": "q", "chosen": "a"}, "list of messages in field 'rejected'"),
  "no prompt": ({"chosen": "a", "rejected": "b"}, "no field 'prompt'"),
  "equal": ({"prompt": "q", "chosen": "a", "rejected": "a"}, "same text"),
  "empty": ({"prompt": "q", "chosen": "a", "rejected": " \n"}, "empty answer in field 'rejected'"),
  "a number": ({"prompt": "q", "chosen": "a", "rejected": 3}, "field 'rejected'"),
  "no label": ({"prompt": "q", "response": "a"}, "None in field 'label'"),
  "label 2": ({"prompt": "q", "response": "a", "label": 2}, "2 in field 'label'"),
  "label text": ({"prompt": "q", "response": "a", "label": "safe"}, "'safe' in field 'label'"),
  "no answer": (
    {"prompt": "q", "chosen": [user("q")], "rejected": [said("b")]},
    "'chosen' that does not end with the assistant",
  ),
  "another prompt": (
    {"prompt": "q", "chosen": [user("p"), said("a")], "rejected": [user("p"), said("b")]},
    "the prompt is not asked",
  ),
  "two prompts": (
    {"chosen": [user("q"), said("a")], "rejected": [user("p"), said("b")]},
    "different conversations",
  ),
  "a role": (
    {"prompt": [{"role": "tool", "content": "q"}], "chosen": "a", "rejected": "b"},
    "tool.* in field 'prompt'",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_records_say_what_is_wrong(case):
  record, complaint = BAD[case]
  with pytest.raises(RecordError, match=complaint):
    read_example(record)


def config(path, **changes):
  values = {"source": "jsonl", "path": str(path), "tokenizer": "byte", "heldout": 0.0, **changes}
  return from_dict(PreferenceConfig, values)


def write(path, records):
  path.write_text("".join(f"{json.dumps(r)}\n" for r in records), encoding="utf-8")
  return path


def test_bad_records_are_left_out_and_told_by_line(tmp_path, capsys):
  good = {"prompt": "q", "chosen": "good", "rejected": "bad"}
  path = write(tmp_path / "x.jsonl", [good, *(record for record, _ in BAD.values())])
  lines = [
    "{broken",
    json.dumps({**good, "chosen": "x" * 300}),
    json.dumps({"prompt": [user("a"), said("b"), user("c")], "response": "d", "label": 1}),
  ]
  path.write_text("\n".join([*lines, path.read_text("utf-8")]), "utf-8")
  learnt, held = read_preferences(config(path), BYTES)
  assert [one.label for one in learnt] == [None] and held == []
  assert [BYTES.decode(text) for text in learnt[0].texts] == ["qgood", "qbad"]
  told = capsys.readouterr().err
  assert f"left out: {path}, line 1, is not valid JSON" in told
  assert f"left out: {path}, line 2, has 302 tokens, more than data.length, 256" in told
  assert f"{path}, line 3, is a conversation of several turns, and the tokenizer has no" in told
  assert f"left out in all: {len(BAD) + 3} of {len(BAD) + 4} records" in told


def test_a_file_of_bad_records_alone_is_refused(tmp_path):
  path = write(tmp_path / "x.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "a"}])
  with pytest.raises(ConfigError, match=r"x.jsonl, line 1, has the same text"):
    read_preferences(config(path), BYTES)


def test_parquet_rows_are_read_as_lines_are(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet

  records = [record for record, _ in (FORMS["implicit: whole conversations alone"],) * 2]
  pyarrow.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "train.parquet")
  lines = write(tmp_path / "x.jsonl", records)
  table = config(tmp_path, source="parquet")
  assert read_preferences(table, BYTES) == read_preferences(config(lines), BYTES)


def test_no_prompt_is_both_learnt_and_held_out(tmp_path):
  records = [
    {"prompt": f"q {i // 3}", "chosen": f"good {i}", "rejected": "bad"} for i in range(300)
  ]
  path = write(tmp_path / "x.jsonl", records)
  learnt, held = read_preferences(config(path, heldout=0.2), BYTES)
  prompts = [{one.prompt for one in part} for part in (learnt, held)]
  assert not prompts[0] & prompts[1] and len(learnt) + len(held) == 300
  assert 8 <= len(prompts[1]) <= 35
  assert (learnt, held) == read_preferences(config(path, heldout=0.2), BYTES)


@pytest.mark.parametrize("name", ["mini", "countdown", "chain_sum"])
def test_problems_give_right_and_wrong_solutions(name):
  task, words = load_task(name), load_tokenizer("word")
  values = {"task": name, "records": 60, "labels": 0.4, "heldout": 0.5, "length": 128}
  learnt, held = read_preferences(from_dict(PreferenceConfig, values), words)
  assert len(learnt) == 60 and len(held) == 30
  prompts = [{one.prompt for one in part} for part in (learnt, held)]
  assert not prompts[0] & prompts[1]
  problems = {task.sample("train", i, 0).prompt: task.sample("train", i, 0) for i in range(200)}
  seen = {None: 0, 0.0: 0, 1.0: 0}
  for one in learnt:
    texts = [words.decode(text).removeprefix(one.prompt) for text in one.texts]
    right = [task.score(problems[one.prompt], text).correct for text in texts]
    assert right == ([1, 0] if one.label is None else [one.label])
    seen[one.label] += 1
  assert min(seen.values()) > 3


def test_conversations_go_through_the_tokenizers_own_template(r1):  # noqa: F811
  tokenizer = load_tokenizer(r1)
  one = text_tokens(tokenizer, "2 + 2?", "4", TURNS)
  assert text_tokens(tokenizer, (user("2 + 2?"),), "4", TURNS) == one
  talk = (
    {"role": "system", "content": "Be brief."},
    user("2 + 2?"),
    said("<think>\neasy\n</think>\n\n4"),
    user("And 3?"),
  )
  whole = tokenizer.template.render(
    [*talk[:2], said("\n\n4"), talk[3], said("5")], add_generation_prompt=False
  )
  assert text_tokens(tokenizer, talk, "5", TURNS) == tokenizer.encode(whole)
  assert one[-1] == tokenizer.eos_id


def test_a_system_text_stands_before_the_question_where_there_are_no_turns():
  talk = ({"role": "system", "content": "s"}, user("q"))
  assert text_tokens(BYTES, talk, "a", "plain") == text_tokens(BYTES, "s\n\nq", "a", "plain")


def test_each_epoch_holds_each_preference_once_in_few_shapes():
  preferences = [
    Preference(((i,) * (1 + i % 80), (200 + i,)), None, "")
    if i % 3
    else Preference(((i,) * (1 + i % 80),), float(i % 2), "")
    for i in range(1, 150)
  ]
  batches = PreferenceBatches(preferences, 8, 80, 0, seed=1, epochs=2)
  again = PreferenceBatches(preferences, 8, 80, 0, seed=1, epochs=2)
  found, shapes = [], set()
  for i in reversed(range(len(batches))):
    one = batches[i]
    shapes.add(one.tokens_BT.shape)
    assert (one.tokens_BT == again[i].tokens_BT).all()
    used = one.segments_BT[:, 0] == 1
    first = used & ((one.chosen_B > 0) | (one.judged_B > 0))
    found += one.tokens_BT[first, 0].tolist()
  assert sorted(found) == sorted(2 * list(range(1, 150)))
  assert shapes == {(8, 32), (8, 64), (8, 80)}
  with pytest.raises(IndexError):
    batches[len(batches)]


def test_widths_double():
  assert [row_width(n) for n in (1, 32, 33, 64, 65, 129)] == [32, 32, 64, 64, 128, 256]


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"source": "text"}, "data.source"),
    ({"path": "x", "source": "problems"}, "data.path"),
    ({"source": "hf"}, "data.path"),
    ({"batch": 1}, "data.batch"),
    ({"labels": 1.5}, "data.labels"),
    ({"heldout": 1.0}, "data.heldout"),
    ({"epochs": 0}, "data.epochs"),
  ],
)
def test_impossible_fields_are_named(changes, named):
  with pytest.raises(ConfigError, match=named):
    from_dict(PreferenceConfig, changes)
