"""Packing loses nothing, mixes nothing up, and fits."""

import numpy as np
import pytest

from deepseek_jax.rl.packing import pack


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
