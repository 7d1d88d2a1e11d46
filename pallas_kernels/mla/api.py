"""Absorbed attention as the model calls it while decoding."""

import jax

from pallas_kernels import dispatch
from pallas_kernels.mla import mgpu, ref, tpu, xla

_FORMS = {"ref": ref.decode, "xla": xla.decode, "tpu": tpu.decode, "mgpu": mgpu.decode}


def mla_decode(
  q_BHX: jax.Array,
  kv_BSX: jax.Array,
  valid_BS: jax.Array,
  *,
  latent: int,
  scale: float,
  implementation: str | None = None,
) -> jax.Array:
  """Attention of one query per row and head over a cache of latents that all heads share.

  Absorbed MLA (2405.04434, section 2.1.2): keys are the cache's entries, the normed latent with
  the rotated key behind it, and values are their first `latent` numbers. The softmax is float32;
  products take operands of the cache's type. A row without valid slots gives zeros. It has no
  gradient but that of its `ref` and `xla` forms.

  Args:
    q_BHX: queries, already times the latent's up-projection, rotated part behind.
    kv_BSX: the cache; bfloat16 for the Hopper kernel. What is not valid may be anything, but must
      be finite for `xla`.
    valid_BS: bool, the slots that a row sees, in any pattern. Kernels read the blocks between a
      row's first and its last.
    latent: width C of the values.
    scale: what scores are multiplied by before the softmax.
    implementation: None (by device), ref, xla, tpu or mgpu.

  Returns:
    [B, H, C] of the queries' dtype.
  """
  args = (q_BHX, kv_BSX, valid_BS)
  return dispatch.call("mla_decode", implementation, _FORMS, *args, latent=latent, scale=scale)
