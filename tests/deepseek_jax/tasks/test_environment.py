"""Tasks that answer: what they reply, what fails, who judges, and who refuses them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.environment import (
  Environment,
  Reply,
  check_turns,
  refuse_turns,
  reply_each,
)
from deepseek_jax.tasks.gold import check_gold
from deepseek_jax.tasks.guess import Guess, guess_of, guess_problem
from deepseek_jax.tasks.mixture import Mixture
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.scoring import score_exchanges
from deepseek_jax.tasks.task import Problem, takes_turns

SPECS = [f"{where}tests.odd_scorers:OddReplies" for where in ("", "isolated:")]


def problem(*data):
  return Problem(prompt="?", task="odd", key=str(data), data=data)


def said(number, form="<think> wait </think> <answer> {} </answer>"):
  return form.format(number)


@pytest.mark.parametrize("spec", SPECS)
def test_a_reply_is_a_text_or_nothing_and_what_fails_costs_no_other(spec):
  calls = [
    ("echo", "a ?"),
    ("raise", None),
    ("echo", None),
    ("echo", 7),
    ("exit", 0),
    ("echo", " "),
  ]
  calls += [("echo", "é\u2028x")]
  replies = reply_each(load_task(spec), [problem(*c) for c in calls], [("x",)] * len(calls))
  assert [r.text for r in replies] == ["a ?", None, None, None, None, None, "é\u2028x"]
  kinds = [r.failure.partition(":")[0] for r in replies]
  assert kinds == ["", "error", "", "text", "error", "text", ""]
  assert "two" in replies[1].failure and "lines" in replies[1].failure and "7" in replies[3].failure


def test_in_processes_of_its_own_a_reply_may_hang_or_die():
  task = load_task(SPECS[1])
  calls = [("echo", "a"), ("leave", 3), ("kill", None), ("long", 10_000), ("spin", None)]
  replies = reply_each(task, [problem(*c) for c in calls], [("x",)] * len(calls))
  kinds = [r.failure.partition(":")[0] for r in replies]
  assert kinds == ["", "died", "refused", "output", "time"] and replies[0].text == "a"


@pytest.mark.parametrize("where", ["", "isolated:"])
def test_the_last_turn_is_judged_unless_the_task_judges_the_whole(where):
  exchanges = [("wrong", "no ?", "right"), ("right", "yes ?", "wrong"), ("right",)]
  problems = [problem("echo", "x")] * 3
  last = score_exchanges(load_task(f"{where}tests.odd_scorers:OddReplies"), problems, exchanges)
  assert [s.correct for s in last] == [1, 0, 1]
  whole = score_exchanges(load_task(f"{where}tests.odd_scorers:OddExchanges"), problems, exchanges)
  assert [s.correct for s in whole] == [1 / 3, 1 / 3, 1]


def test_a_mixture_answers_for_the_tasks_that_do():
  mixture = Mixture((Guess(), ChainSum()), (1.0, 1.0))
  hidden, plain = guess_problem(1, 15, 4, "en"), ChainSum().sample("train", 0, 0)
  assert reply_each(mixture, [plain, hidden], [("9",), ("9",)]) == [Reply(), Reply("high ?")]
  exchanges = [(said(plain.answer),), (said(9), "high ?", said(4))]
  assert [s.correct for s in score_exchanges(mixture, [plain, hidden], exchanges)] == [1, 1]
  assert takes_turns(mixture) and not takes_turns(load_task("mini"))


def test_turns_are_asked_for_where_they_are_taken_and_nowhere_else():
  for task in (Guess(), load_task(SPECS[1]), load_task(SPECS[0])):
    check_turns(task, 2, "turns")
    with pytest.raises(ConfigError, match=f"the task '{task.name}' answers .* rollout.turns is 1"):
      check_turns(task, 1, "rollout.turns")
    with pytest.raises(ConfigError, match="distillation reads a single answer"):
      refuse_turns(task, "distillation")
  for task in (load_task("mini"), load_task("isolated:tests.odd_scorers:Odd")):
    check_turns(task, 1, "turns")
    refuse_turns(task, "distillation")
    with pytest.raises(ConfigError, match=f"rollout.turns is 3, but the task '{task.name}'"):
      check_turns(task, 3, "rollout.turns")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["train", "heldout"]))
def test_who_listens_finds_any_number_in_time(index, seed, split):
  task = Guess()
  asked = task.sample(split, index, seed)
  low, high = [int(w) for w in asked.prompt.split() if w.isdigit()]
  exchange = []
  for _ in range(4):  # of 15 numbers
    middle = (low + high) // 2
    exchange.append(said(middle))
    reply = task.reply(asked, tuple(exchange))
    if reply is None:
      break
    exchange.append(reply)
    low, high = (middle + 1, high) if reply.split()[0] in ("low", "低") else (low, middle - 1)
  score = task.score_exchange(asked, tuple(exchange))
  assert (score.correct, score.format) == (1, 1) and len(exchange) % 2
  load_tokenizer("word").encode(" ".join([asked.prompt, *exchange[1::2], "check ?", "检查 ?"]))


def test_no_range_is_in_both_splits():
  found = {s: {Guess().sample(s, i, 0).prompt for i in range(300)} for s in ("train", "heldout")}
  ranges = {s: {tuple(p.split()[1:4:2]) for p in prompts} for s, prompts in found.items()}
  assert not ranges["train"] & ranges["heldout"] and all(ranges.values())
  with pytest.raises(ConfigError, match="no range of 3 numbers up to 4 in the heldout split"):
    Guess(3, 4).sample("heldout", 0, 0)
  with pytest.raises(ConfigError, match="one of 300 numbers"):
    Guess(300)


@pytest.mark.parametrize(
  ("text", "number"),
  [
    (said(7), 7), ("7", 7), (" 7 ", 7), (said("-7"), -7), ("7 8", None), ("", None),
    ("<answer> 7 </answer>", None), (said("7 or 8"), None), (said("٧"), None), ("x" * 10**5, None),
  ],
)  # fmt: skip
def test_a_guess_is_one_integer(text, number):
  assert guess_of(text) == number
  asked = guess_problem(1, 15, 7, "zh")
  assert Guess().score(asked, text).correct == (number == 7)
  wanted = None if number == 7 else "检查 ?" if number is None else "低 ?"
  assert Guess().reply(asked, (text,)) == wanted


def test_guess_is_an_environment_whose_gold_is_right():
  assert isinstance(Guess(), Environment) and not isinstance(ChainSum(), Environment)
  gold = check_gold(Guess(), [Guess().sample("train", i, 0) for i in range(20)])
  assert gold.accepted == gold.answered and gold.mistaken == 0
