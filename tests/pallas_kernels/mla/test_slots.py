"""Blocks of slots: each valid slot is in one block, which one part reads."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.mla.slots import block_bounds, blocked


@settings(max_examples=60, deadline=None)
@given(
  seed=st.integers(0, 2**31),
  slots=st.sampled_from([4, 7, 12, 30]),
  density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
  parts=st.integers(1, 4),
)
def test_every_valid_slot_is_read_by_one_part(seed, slots, density, parts):
  block = 4
  valid_BS = np.random.default_rng(seed).random((3, slots)) < density
  valid_BNS = np.asarray(blocked(jnp.asarray(valid_BS), block))
  first_BP, end_BP, whole_BN = map(np.asarray, block_bounds(jnp.asarray(valid_BNS), parts))
  starts = [min(n * block, slots - block) for n in range(valid_BNS.shape[1])]
  for b in range(3):
    read_S = np.zeros(slots, int)
    for first, end in zip(first_BP[b], end_BP[b]):
      for n in range(first, end):
        read_S[starts[n] : starts[n] + block] += valid_BNS[b, n]
    np.testing.assert_array_equal(read_S, valid_BS[b])
    used_N = valid_BNS[b].any(axis=-1).nonzero()[0]
    span = used_N.max() - used_N.min() + 1 if used_N.size else 0
    assert (end_BP[b] - first_BP[b]).sum() == span  # nothing outside first and last is read
    assert (end_BP[b] - first_BP[b]).max() <= -(-span // parts)
  np.testing.assert_array_equal(whole_BN, valid_BNS.all(axis=-1))
