"""Packing loses nothing, mixes nothing up, and fits."""

import numpy as np
import pytest

from deepseek_jax.rl.packing import pack
from deepseek_jax.types import SHARED


def test_pack_puts_every_token_where_it_belongs(complete):
  rng = np.random.default_rng(0)
  items = [
    complete(
      prompt=rng.integers(1, 9, rng.integers(1, 4)).tolist(),
      tokens=rng.integers(1, 9, rng.integers(1, 6)).tolist(),
    )
    for _ in range(7)
  ]
  advantage_N, weight_N = rng.normal(size=7), rng.uniform(0.1, 1, 7)
  rollout, used = pack(items, advantage_N, weight_N, (4, 2, 12), pad_id=0)
  shape = rollout.batch.tokens_BT.shape
  assert shape == (4, 2, 12) and rollout.experts_LBTA.shape == (4, 1, 2, 12, 1)
  assert 0 < used < 4 and not np.any(rollout.batch.segments_BT[used:])

  found = []
  batch = rollout.batch
  for m, b in np.ndindex(shape[:2]):
    for segment in range(1, batch.segments_BT[m, b].max() + 1):
      where = np.flatnonzero(batch.segments_BT[m, b] == segment)
      np.testing.assert_array_equal(np.diff(where), 1)
      np.testing.assert_array_equal(batch.positions_BT[m, b, where], np.arange(len(where)))
      np.testing.assert_array_equal(rollout.experts_LBTA[m, 0, b, where, 0], np.arange(len(where)))
      answer = where[batch.loss_mask_BT[m, b, where] > 0]
      logprobs = rollout.old_logprob_BT[m, b, answer]
      np.testing.assert_array_equal(logprobs, -np.arange(1, len(answer) + 1))
      found.append(
        (
          batch.tokens_BT[m, b, where].tolist(),
          len(answer),
          *{(x, y) for x, y in zip(rollout.advantage_BT[m, b, answer],
                                   rollout.weight_BT[m, b, answer])},
        )
      )  # fmt: skip
  wanted = [
    (c.prompt + c.tokens, len(c.tokens), (np.float32(a), np.float32(w)))
    for c, a, w in zip(items, advantage_N, weight_N)
  ]
  assert sorted(map(repr, found)) == sorted(map(repr, wanted))
  outside = batch.loss_mask_BT == 0
  for name in ("advantage_BT", "weight_BT", "old_logprob_BT", "ref_logprob_BT"):
    assert not np.any(getattr(rollout, name)[outside])


def test_too_few_rows_are_refused(complete):
  with pytest.raises(ValueError, match="3 samples need 3 rows; there are 2"):
    pack([complete(tokens=[1] * 5)] * 3, np.ones(3), np.ones(3), (1, 2, 8), pad_id=0)


def groups(complete, rng, sizes=(3, 1, 4)):
  """Completions of a few prompts, prompt by prompt."""
  prompts = [rng.integers(1, 9, n).tolist() for n in rng.integers(1, 7, len(sizes))]
  return [
    complete(prompt=prompt, tokens=rng.integers(1, 9, rng.integers(1, 6)).tolist())
    for prompt, size in zip(prompts, sizes, strict=True)
    for _ in range(size)
  ]


@pytest.mark.parametrize("repeated", [1, 2, 3])
@pytest.mark.parametrize("width", [12, 40])
def test_completions_of_one_prompt_share_it(complete, repeated, width):
  rng = np.random.default_rng(repeated)
  items = groups(complete, rng)
  advantage_N, weight_N = rng.normal(size=8), rng.uniform(0.1, 1, 8)
  alone, _ = pack(items, advantage_N, weight_N, (4, 2, width), 0)
  rollout, used = pack(items, advantage_N, weight_N, (4, 2, width), 0, repeated)
  batch, found, sharing = rollout.batch, [], 0
  for m, b in np.ndindex(4, 2):
    segments_T, positions_T = batch.segments_BT[m, b], batch.positions_BT[m, b]
    answered = segments_T[batch.loss_mask_BT[m, b] > 0]
    for own in np.unique(answered):
      # What a completion's last token sees, in the order of its positions, is its sequence.
      sees = (segments_T == own) | (segments_T == own % SHARED)
      last = np.flatnonzero(segments_T == own)[-1]
      assert sees[: last + 1].sum() == sees.sum(), "a key stands behind its query"
      np.testing.assert_array_equal(positions_T[sees], np.arange(sees.sum()))
      np.testing.assert_array_equal(rollout.experts_LBTA[m, 0, b, sees, 0], positions_T[sees])
      answer = (segments_T == own) & (batch.loss_mask_BT[m, b] > 0)
      if own >= SHARED:
        sharing += 1
        before = np.flatnonzero(segments_T == own)
        assert (batch.loss_mask_BT[m, b, before] == 0).sum() == repeated
      values = rollout.old_logprob_BT, rollout.advantage_BT, rollout.weight_BT
      figures = [x[m, b, answer].tolist() for x in values]
      found.append([batch.tokens_BT[m, b, sees].tolist(), *figures])
  figures = np.stack([advantage_N, weight_N], axis=1).astype(np.float32).tolist()
  wanted = [
    [c.prompt + c.tokens, c.logprobs_T.tolist(), *([x] * len(c.tokens) for x in own)]
    for c, own in zip(items, figures, strict=True)
  ]
  assert sorted(map(repr, found)) == sorted(map(repr, wanted))
  assert sharing == sum(len(c.prompt) > repeated for c in items)
  assert np.count_nonzero(batch.segments_BT) <= np.count_nonzero(alone.batch.segments_BT)
  assert not np.any(batch.segments_BT[used:])
