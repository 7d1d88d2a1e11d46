"""What a tuning stage learns: kept samples, in any learner's tokens, and written answers."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.conversation import has_turns
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.data.written import WrittenConfig, read_written
from deepseek_jax.recipe.config import TuneStage
from deepseek_jax.recipe.lessons import Drawn, behind, kept_or_drawn, lessons, written_digest
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.rejection import Selection
from deepseek_jax.tasks.task import Problem, Score
from tests.deepseek_jax.recipe.tiny import write_lines
from tests.talker import write_tokenizer

WORD, BYTE = load_tokenizer("word"), load_tokenizer("byte")
RECORDS = [{"prompt": f"sum {n} 1 ?", "text": f" {n + 1}"} for n in range(60)]
DRAWN = Drawn(RECORDS, {"sampled": 60, "kept": 60}, 300, "a" * 64)


def selection(texts):
  kept = [
    Completion(
      Problem(f"sum {i} ?", "t", str(i)), [1], [2], None, None, False, t, Score(1.0, 1.0, 1.0)
    )
    for i, t in enumerate(texts)
  ]
  return Selection(kept, {"sampled": 9, "kept": len(kept)}, 77)


def learn(drawn=DRAWN, tokenizer=BYTE, form="plain", seed=0, **settings):
  return lessons("s", TuneStage(**{"length": 32, **settings}), drawn, tokenizer, form, seed)


def test_samples_are_kept_and_not_drawn_twice(tmp_path):
  first = kept_or_drawn(tmp_path, "sft2", "plain", lambda: selection(["1 2", " 3"]))
  again = kept_or_drawn(tmp_path, "sft2", "plain", lambda: 1 / 0)
  assert first == again and first.tokens == 77 and first.counts["sampled"] == 9
  assert [r["text"] for r in first.records] == [" 1 2", " 3"]
  (tmp_path / "sft2.jsonl").write_text('{"prompt": "sum 0 ?", "text": " 9"}\n')
  with pytest.raises(ConfigError, match="is not what was sampled any more; delete .*sft2.json"):
    kept_or_drawn(tmp_path, "sft2", "plain", lambda: 1 / 0)
  (tmp_path / "sft2.json").write_text("{")
  with pytest.raises(ConfigError, match="cannot be read"):
    kept_or_drawn(tmp_path, "sft2", "plain", lambda: 1 / 0)


def test_samples_that_a_kill_left_without_their_note_are_drawn_again(tmp_path):
  first = kept_or_drawn(tmp_path, "s", "plain", lambda: selection(["1", "2"]))
  (tmp_path / "s.json").unlink()
  assert kept_or_drawn(tmp_path, "s", "plain", lambda: selection(["1", "2"])) == first


def test_one_text_is_learnt_in_the_tokens_of_any_learner(tmp_path):
  write_tokenizer(tmp_path)
  for tokenizer in (WORD, BYTE, HFTokenizer.load(tmp_path)):
    found = learn(tokenizer=tokenizer)
    assert len(found.samples) == 60 and found.counts["samples_left_out"] == 0
    for sample, record in zip(found.samples, RECORDS, strict=True):
      told = tokenizer.decode(sample.tokens[sample.prompt_length :])
      assert told.split() == record["text"].split()
      assert tokenizer.decode(sample.tokens).split() == (record["prompt"] + record["text"]).split()


def test_an_answer_stands_behind_its_prompt_once():
  assert behind("2", "plain") == behind(" 2", "plain") == " 2"
  assert behind("\n2", "r1_zero") == "\n2" and behind(" 2", "turns") == "2"


def test_what_the_learner_cannot_say_or_hold_is_left_out_told_and_counted(capsys):
  odd = [
    *RECORDS[:3],
    {"prompt": "write ?", "text": " prose"},
    {"prompt": "sum", "text": " 1" * 40},
  ]
  drawn = Drawn(odd, {}, 0, "")
  found = learn(drawn, WORD)
  assert found.counts == {"samples": 3, "samples_left_out": 2}
  told = capsys.readouterr().err
  assert "does not know 'write'" in told and "has 42 tokens" in told
  with pytest.raises(ConfigError, match="s has nothing to learn from: none of 60 samples"):
    learn(length=4)


@pytest.mark.parametrize("shares", [{"general": 0.25}, {"traces": 0.25, "general": 0.5}])
def test_a_share_is_that_of_all_that_is_learnt(tmp_path, shares):
  path = write_lines(tmp_path / "g.jsonl", [{"prompt": "p", "text": f"x{i}"} for i in range(200)])
  files = {name: WrittenConfig(path=path, share=share) for name, share in shares.items()}
  found = learn(**files)
  for name, share in shares.items():
    assert found.counts[name] / len(found.samples) == pytest.approx(share, abs=0.01)
  assert learn(**files).samples == found.samples
  assert learn(**files, seed=1).samples != found.samples
  assert len(learn(traces=WrittenConfig(path=path)).samples) == 260
  assert set(found.hashes) == {"samples", *shares}


def test_fewer_records_than_the_share_asks_for_are_told(tmp_path, capsys):
  path = write_lines(tmp_path / "g.jsonl", RECORDS[:5])
  assert learn(general=WrittenConfig(path=path, share=0.5)).counts["general"] == 5
  assert "general has 5 records for the 60 that its share asks for" in capsys.readouterr().err


def test_a_files_hash_is_its_own(tmp_path):
  path = write_lines(tmp_path / "g.jsonl", RECORDS[:5])
  before = written_digest(WrittenConfig(path=path))
  assert len(before) == 64
  write_lines(tmp_path / "g.jsonl", RECORDS[:4])
  assert written_digest(WrittenConfig(path=path)) != before


def test_conversations_are_read_in_turns_and_single_questions_in_any_form(tmp_path, capsys):
  def says(*texts):
    roles = ("user", "assistant") * 3
    return [{"role": role, "content": text} for role, text in zip(roles, texts)]

  records = [
    {"messages": says("a", "b")}, {"messages": says("a", "b", "c", "d")}, {"messages": says("a")},
    {"prompt": "a", "text": "b"}, {"text": "b"}, "a", {"messages": says("a", " ")},
  ]  # fmt: skip
  config = WrittenConfig(path=write_lines(tmp_path / "t.jsonl", records))
  template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|eot_id|>{% endfor %}"
  template += "{% if add_generation_prompt %}<assistant>{% endif %}"
  write_tokenizer(tmp_path / "t", template)
  turns = HFTokenizer.load(tmp_path / "t")
  assert has_turns(turns)
  found, count = read_written(config, turns, "turns", 200)
  assert (len(found), count) == (3, 7)
  long = turns.decode(found[1].tokens[: found[1].prompt_length])
  assert long.replace("<|eot_id|>", "").endswith("<user>a<assistant>b<user>c<assistant>")
  found, count = read_written(config, BYTE, "plain", 200)
  assert (len(found), count) == (2, 7)
  assert "are not one question" in capsys.readouterr().err


def test_fields_and_tables_and_nothing(tmp_path):
  path = write_lines(tmp_path / "q.jsonl", [{"question": "sum ?", "solution": "3"}])
  config = WrittenConfig(path=path, prompt_field="question", text_field="solution")
  assert len(read_written(config, WORD, "plain", 9)[0]) == 1
  (tmp_path / "empty.json").write_text(json.dumps([]))
  with pytest.raises(ConfigError, match="empty.json has no records|has nothing left"):
    read_written(WrittenConfig(path=str(tmp_path / "empty.json")), WORD, "plain", 9)
  with pytest.raises(ConfigError, match="share is 1"):
    WrittenConfig(path="x", share=1.0)
  with pytest.raises(ConfigError, match="leave room for samples"):
    TuneStage(traces=WrittenConfig("x", 0.5), general=WrittenConfig("x", 0.5))
