"""What rejection sampling keeps, and what it says of the rest."""

from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.rl.rejection import RejectionConfig, repeated_share, select


def test_each_fault_is_counted_once_and_the_fit_are_kept(complete):
  loop = list(range(1, 7)) * 5
  items = [
    complete(tokens=[1]),  # kept
    complete(tokens=[1]),  # duplicate
    complete(tokens=[1], problem="q"),  # kept: the same words, another problem
    complete(tokens=[2], truncated=True, correct=0.0),
    complete(tokens=[3], form=0.0, correct=0.0),
    complete(tokens=[4], correct=0.0),
    complete(tokens=[5], language=0.6),
    complete(tokens=loop),
    complete(tokens=[6]),  # kept
    complete(tokens=[7]),  # surplus
  ]
  got = select(items, RejectionConfig(keep=2, language=0.9))
  assert got.kept == [items[0], items[2], items[8]]
  assert got.counts == {
    "sampled": 10, "truncated": 1, "malformed": 1, "wrong": 1, "language": 1, "repetitive": 1,
    "duplicate": 1, "surplus": 1, "kept": 3,
  }  # fmt: skip
  assert got.text() == (
    "3 of 10 samples are kept; 1 truncated, 1 malformed, 1 wrong, 1 language, 1 repetitive, "
    "1 duplicate, 1 surplus"
  )
  assert select(items[:1], RejectionConfig()).text() == "1 of 1 samples are kept"


@given(
  st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=30),
  st.integers(1, 3),
)
def test_kept_are_right_distinct_and_few(complete, drawn, keep):
  items = [complete(tokens=[t], problem=f"p{p}", correct=float(c)) for t, p, c in drawn]
  got = select(items, RejectionConfig(keep=keep))
  pairs = [(c.problem.prompt, c.text) for c in got.kept]
  assert all(c.score.correct == 1 for c in got.kept) and len(set(pairs)) == len(pairs)
  prompts = [prompt for prompt, _ in pairs]
  assert all(prompts.count(p) <= keep for p in prompts)
  counts = dict(got.counts)
  assert counts.pop("sampled") == len(items) == sum(counts.values())


def test_what_is_no_text_is_malformed(complete):
  one = complete(tokens=["\ufffd", "7"])
  assert select([one], RejectionConfig()).counts["malformed"] == 1


def test_repeated_share():
  assert repeated_share([1, 2, 3], 6) == 0
  assert repeated_share(list(range(50)), 6) == 0
  assert repeated_share([1] * 15, 6) == 0.9
