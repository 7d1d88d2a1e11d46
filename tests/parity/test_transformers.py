"""Our checkpoints have our logits in transformers, those of the MTP module too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.api import Model
from deepseek_jax.hub import config_json
from deepseek_jax.hub.safetensors import abstract_weights, save_pretrained
from deepseek_jax.model.transformer import Transformer, forward, mtp_hidden
from deepseek_jax.types import Weights
from tests.parity.families import (
  CASES,
  TOKENS,
  assert_equal_logits,
  random_tokens,
  their_model,
  torch,
  torch_logits,
)

SEEDS = range(5)


def our_random_weights(config, seed: int) -> Weights:
  """Weights all of whose leaves matter, without compiling an initialisation."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
    name = str(path[-1])
    return 1 + 0.2 * noise if "norm" in name else noise * (1.0 if "bias" in name else 0.15)

  return jax.tree_util.tree_map_with_path(draw, abstract_weights(config))


def our_config(case: str, mtp_depth: int = 0):
  kind, fields = CASES[case]
  model_type = {"DeepseekV3": "deepseek_v3", "DeepseekV2": "deepseek_v2"}.get(kind, kind.lower())
  fields = fields | {"model_type": model_type, "num_nextn_predict_layers": mtp_depth}
  return config_json.from_json(fields)


@pytest.mark.parametrize("case", CASES)
def test_our_checkpoint_has_our_logits_there(case, tmp_path):
  config = our_config(case)
  weights = our_random_weights(config, seed=0)
  save_pretrained(tmp_path / "out", config, weights)
  model = their_model(CASES[case][0], tmp_path / "out")
  tokens_BT = random_tokens(config.vocab, seed=0)
  ours = Model(config, weights).logits(tokens_BT)  # compiled once, as for test_checkpoints.py
  assert_equal_logits(ours, torch_logits(model, tokens_BT))


def test_mtp_module_predicts_what_theirs_does(tmp_path):
  """transformers loads our MTP module into its own and has the same logits from it."""
  modeling = pytest.importorskip("transformers.modeling_layers", reason="needs transformers 5.23")
  if not hasattr(modeling, "MtpModel"):
    pytest.skip("this version of transformers has no MTP modules")
  config = our_config("v3_yarn_mscale", mtp_depth=1)
  model = Transformer(config)
  positions_BT = jnp.broadcast_to(jnp.arange(TOKENS[1]), TOKENS)

  @jax.jit
  def ours(weights, tokens_BT):
    """Logits of the main model, and of the module for all but the last position."""
    span = (positions_BT, jnp.ones_like(positions_BT))
    hidden_BTD = forward(model, weights, tokens_BT, *span).hidden_BTD
    further_PBTD, _ = mtp_hidden(model, weights, hidden_BTD, tokens_BT, *span)
    head_DV = weights.params["head_DV"]
    return hidden_BTD @ head_DV, further_PBTD[0, :, :-1] @ head_DV

  for seed in SEEDS:
    folder = tmp_path / str(seed)
    weights = our_random_weights(config, seed)
    save_pretrained(folder, config, weights)
    theirs = their_model("DeepseekV3", folder)
    # The class knows only layer 61, that of the full model, as an MTP module's.
    theirs._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config.layers}.*"]
    module = modeling.MtpModel.from_pretrained(theirs).eval()
    tokens_BT = random_tokens(config.vocab, seed)
    main, further = map(np.asarray, ours(weights, jnp.asarray(tokens_BT)))
    with torch.no_grad():
      tokens = torch.from_numpy(tokens_BT)
      hidden = theirs.model(tokens).last_hidden_state
      out = module.forward_layer(
        0, hidden[:, :-1], torch.arange(TOKENS[1] - 1)[None], None, input_ids=tokens[:, 1:]
      )
      assert_equal_logits(main, theirs.lm_head(hidden).numpy())
      assert_equal_logits(further, theirs.lm_head(out).numpy())
