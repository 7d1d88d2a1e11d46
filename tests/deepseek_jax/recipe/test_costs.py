"""The ledger's tables: rows and their sum, and what stages were given."""

from deepseek_jax.recipe.costs import costs_text, page_rows
from deepseek_jax.recipe.ledger import Entry, priced


def entries(rate=0.0):
  base = Entry("base", "teacher", None, None, steps=3, seconds=1800.0, devices=4, weights="b" * 64)
  tuned = Entry("cold_start", "teacher", "base", None, steps=2, seconds=5400.0)
  tuned.selection = {"sampled": 40, "wrong": 30, "kept": 10}
  tuned.learnt = {"samples": 10, "traces": 5, "traces_left_out": 0}
  given = Entry("rl1", "teacher", "cold_start", None)
  given.inputs = {"start": "c" * 64}
  return [priced(entry.as_dict(), rate) for entry in (base, tuned, given)]


def test_rows_and_their_sum():
  head, *rows = costs_text(entries(rate=2.0)).split("\n\n")[0].splitlines()
  assert head.split()[-2:] == ["device-hours", "cost"]
  assert [row.split()[0] for row in rows] == ["base", "cold_start", "rl1", "all"]
  assert [row.split()[-2:] for row in rows] == [
    ["2.0000", "4.00"], ["1.5000", "3.00"], ["0.0000", "0.00"], ["3.5000", "7.00"],
  ]  # fmt: skip
  assert "cost" not in costs_text(entries()).splitlines()[0]


def test_what_stages_were_given():
  lines = costs_text(entries()).split("\n\n")[1].splitlines()[1:]
  assert lines == [
    "cold_start   kept 10, 25.0% (sampled 40, wrong 30)",
    "             learnt: samples 10, traces 5",
    "rl1          from: start cccccccccccc",
  ]


def test_a_page_shows_short_hashes_and_the_sum_last():
  rows = page_rows(entries())
  assert rows[-1]["stage"] == "all" and rows[0]["weights"] == "b" * 12
  assert rows[1]["selection"] == "sampled 40, wrong 30, kept 10"
  assert rows[2]["inputs"] == "start cccccccccccc"
