"""YaRN to 163,840 positions: angles and logits are those of transformers, far out as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.hub.safetensors import load_pretrained
from deepseek_jax.model.transformer import Transformer, forward
from deepseek_jax.ops.rope import angles
from deepseek_jax.presets import preset
from tests.parity.families import CASES, assert_equal_logits, random_model, torch, transformers

LAST = 163_839
FAR = [0, 1, 2, 4095, 4096, 4097, 32_767, 32_768, 65_535, 131_071, 131_072, 163_000, LAST - 1, LAST]
ROPE = {
  "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32,
  "beta_slow": 1, "rope_theta": 10_000.0,
}  # fmt: skip


@pytest.mark.parametrize(
  ("name", "mscale"), [("v3_671b", 1.0), ("v2_lite_16b", 0.707)], ids=["v3", "v2_lite"]
)
def test_angles_are_theirs_to_the_last_position(name, mscale):
  config = transformers.DeepseekV3Config(
    rope_scaling=ROPE | {"mscale": mscale, "mscale_all_dim": mscale},
    max_position_embeddings=163_840,
  )
  rotary = transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3RotaryEmbedding(config)
  theirs = rotary(torch.zeros(1, len(FAR), 1), torch.tensor([FAR]))
  ours = angles(preset(name).rope, 64, jnp.asarray([FAR]))
  for mine, other in zip(ours, theirs):
    np.testing.assert_allclose(mine, other.numpy()[..., :32], atol=2e-7)


def test_logits_are_theirs_to_the_last_position(tmp_path):
  kind, fields = CASES["v3"]
  rope = {"rope_scaling": ROPE | {"mscale": 1.0, "mscale_all_dim": 1.0}}
  model = random_model(kind, fields | rope | {"max_position_embeddings": 163_840}, seed=0)
  model.save_pretrained(tmp_path)
  config, weights, _ = load_pretrained(tmp_path)
  assert config.max_context == 163_840 and config.rope == preset("v3_671b").rope
  ours_model, rng = Transformer(config), np.random.default_rng(0)
  run = jax.jit(lambda *args: forward(ours_model, weights, *args).hidden_BTD)
  starts = [list(range(at, at + len(FAR))) for at in (0, 4090, 131_066, LAST + 1 - len(FAR))]
  for positions in (FAR, *starts):
    tokens_BT = rng.integers(0, config.vocab, (1, len(positions)))
    positions_BT = jnp.asarray([positions])
    hidden_BTD = run(jnp.asarray(tokens_BT), positions_BT, jnp.ones_like(positions_BT))
    ours = np.asarray(hidden_BTD @ weights.params["head_DV"])
    with torch.no_grad():
      theirs = model(torch.from_numpy(tokens_BT), position_ids=torch.tensor([positions])).logits
    assert_equal_logits(ours, theirs.numpy())
