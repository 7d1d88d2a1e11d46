"""A policy that is shown while sampling: where it comes from, and that it is never learnt."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.document import Document, make_sample
from deepseek_jax.data.word_tokenizer import WordTokenizer
from deepseek_jax.rl.rejection import RejectionConfig, rejection_sample, select
from deepseek_jax.rl.written_policy import check_room, check_unwritten, policy_text
from deepseek_jax.tasks.guarded import Guarded
from deepseek_jax.tasks.registry import load_task

WORDS = WordTokenizer()
POLICY = Guarded().policy


class Reader:
  """An engine that has read the policy in its prompt, or knows of none, and answers by it."""

  def __init__(self, answer):
    self.answer, self.prompts = answer, []

  def generate(self, weights, prompts, params, keys_B):
    self.prompts += [WORDS.decode(prompt) for prompt in prompts]
    tokens = [[*WORDS.encode(self.answer(text)), WORDS.eos_id] for text in self.prompts]
    lengths_B = np.array([len(t) for t in tokens])
    return SimpleNamespace(
      answer=lambda i: tokens[i][:-1],
      completion=lambda i: tokens[i],
      lengths_B=lengths_B,
      logprobs_BT=np.zeros([len(tokens), lengths_B.max()], np.float32),
      experts=[np.zeros([1, 1, 1])] * len(tokens),
      stopped_B=np.ones(len(tokens), bool),
    )


def obedient(prompt):
  """What a model says that follows the policy before its prompt."""
  policy, _, question = prompt.partition(" sum ")
  if not policy:
    return "<think> </think> <answer> 1 </answer>"
  terms = question.removesuffix(" ?").split()
  hit = {d.lstrip("-") for d in terms} & set(policy.split()[1:])
  thought = f"{policy} vs {' '.join(terms)} {'wait' if hit else 'right'}"
  answer = "check" if hit else str(sum(map(int, terms)))
  return f"<think> {thought} </think> <answer> {answer} </answer>"


def drawn(config, task=None, answer=obedient):
  engine = Reader(answer)
  return engine, rejection_sample(engine, None, task or Guarded(), WORDS, config, seed=0)


@settings(deadline=None)  # the first example compiles
@given(st.sets(st.integers(1, 9), min_size=2, max_size=2).map(sorted), st.integers(1, 3))
def test_the_policy_is_in_every_prompt_that_is_sampled_and_in_none_that_is_learnt(private, group):
  task = Guarded(private=tuple(private))
  config = RejectionConfig(prompts=6, group=group, keep=1, max_new=8, policy=task.policy)
  engine, found = drawn(config, task)
  assert len(engine.prompts) == 6 * group
  assert all(prompt.startswith(f"{task.policy} sum ") for prompt in engine.prompts)
  assert found.kept and found.counts["wrong"] == 0
  for one in found.kept:
    sample = make_sample(WORDS, Document(f" {one.text}", one.problem.prompt))
    prompt = WORDS.decode(sample.tokens[: sample.prompt_length])
    assert prompt == one.problem.prompt and task.policy not in prompt and "check" not in prompt
    learnt = WORDS.decode(sample.tokens[sample.prompt_length :])
    assert learnt == one.text and task.policy in learnt  # it is recalled in the thought


def test_without_a_policy_prompts_are_as_they_were_and_so_is_what_is_counted():
  plain, empty = RejectionConfig(prompts=4), RejectionConfig(prompts=4, policy="", cites="")
  assert plain == empty
  engine, found = drawn(plain)
  assert engine.prompts == [
    Guarded().sample("train", i, 0).prompt for i in range(4) for _ in "1234"
  ]
  assert "uncited" not in found.counts


def test_what_is_kept_is_a_function_of_the_arguments():
  config = RejectionConfig(prompts=8, policy=POLICY)
  (a, first), (b, again) = drawn(config), drawn(config)
  assert a.prompts == b.prompts and first.counts == again.counts
  assert [c.text for c in first.kept] == [c.text for c in again.kept]


def test_thoughts_that_do_not_refer_to_the_policy_fall_where_they_shall_cite_it():
  def silent(prompt):
    return re.sub("<think> .* </think>", "<think> </think>", obedient(prompt))

  config = RejectionConfig(prompts=8, keep=4, policy=POLICY, cites=r"check \d \d vs")
  counts = drawn(config)[1].counts
  assert counts["uncited"] == 0 and counts["kept"] == 8
  counts = drawn(config, answer=silent)[1].counts
  assert counts["uncited"] == counts["sampled"] == 32 and counts["kept"] == 0
  assert sum(counts.values()) == 2 * 32


def test_a_policy_cited_in_the_answer_alone_is_not_in_the_thought(complete):
  config = RejectionConfig(cites="7")
  inside = ["<think>", "7", "</think>", "<answer>", "1", "</answer>"]
  outside = ["<think>", "1", "</think>", "<answer>", "7", "</answer>"]
  got = select([complete(tokens=inside), complete(tokens=outside)], config)
  assert got.counts["kept"] == got.counts["uncited"] == 1


def test_a_policy_is_a_text_or_a_file_that_holds_one(tmp_path):
  file = tmp_path / "policy.txt"
  file.write_text("Never say\nseven.\n", encoding="utf-8")
  assert policy_text(str(file)) == "Never say\nseven."
  for text in ("", "check 3 6", "Refuse.", "Say yes/no.", "See a.txt first", "wait"):
    assert policy_text(text) == text
    RejectionConfig(policy=text)
  file.write_bytes(b"\xff\xfe\xfa")
  with pytest.raises(ConfigError, match="policy.txt cannot be read"):
    policy_text(str(file))
  file.write_text(" \n")
  with pytest.raises(ConfigError, match="policy.txt is an empty file"):
    policy_text(str(file))
  for absent in ("policy.md", "policies/ours"):
    with pytest.raises(ConfigError, match=f"the policy {absent} cannot be read"):
      policy_text(absent)


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    ({"policy": " \n"}, "the policy is blank"),
    ({"policy": "rules.txt"}, "'rules.txt', the name of a file"),
    ({"policy": "texts/rules"}, "'texts/rules', the name of a file"),
    ({"cites": "check ("}, "rejection.cites is 'check .'"),
  ],
)
def test_settings_that_cannot_be_are_refused(fields, told):
  with pytest.raises(ConfigError, match=told):
    RejectionConfig(**fields)


def test_a_policy_must_leave_room_for_a_question():
  check_room("", WORDS, "plain", 100, 10)
  check_room("check 3 6", WORDS, "plain", 8, 13)  # with `?` they are four
  with pytest.raises(ConfigError, match="takes 4 tokens.* context of 12; shorten it"):
    check_room("check 3 6", WORDS, "plain", 8, 12)
  with pytest.raises(ConfigError, match="does not know 'Refuse'"):
    check_room("Refuse that", WORDS, "plain", 8, 99)


def test_a_task_whose_prompts_have_the_policy_in_them_is_refused():
  with pytest.raises(ConfigError, match="stands in a prompt of guarded already, 'check 3 6 sum"):
    drawn(RejectionConfig(policy=POLICY), Guarded(written=True))
  problems = [load_task("policies").sample("heldout", i, 0) for i in range(50)]
  with pytest.raises(ConfigError, match="take a task whose prompts are without it"):
    check_unwritten("check  3\n6", [p for p in problems if p.data.private == (3, 6)])
  check_unwritten("check 3 6", [Guarded().sample("train", 0, 0)])
