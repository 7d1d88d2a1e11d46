"""Tokens, experts and rules of the released models, for benchmarks and compilation."""

from pallas_kernels.routing.rule import Rule

V3 = Rule(top_k=8, groups=8, top_groups=4, scale=2.5)
V2 = Rule(
  top_k=6,
  groups=8,
  top_groups=3,
  scoring="softmax",
  group_score="max",
  normalize=False,
  scale=16.0,
)
V2_LITE = Rule(top_k=6, scoring="softmax", normalize=False)

# (name, tokens N, experts E, rule); 4096 tokens as a training step's shard, 128 as decoding's
SHAPES = (
  ("V3 4096", 4096, 256, V3),
  ("V3 128", 128, 256, V3),
  ("V2 4096", 4096, 160, V2),
  ("V2-Lite 4096", 4096, 64, V2_LITE),
)

SMALL = (("small", 128, 64, V2_LITE),)
