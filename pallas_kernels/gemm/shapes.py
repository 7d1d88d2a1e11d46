"""The matmuls of DeepSeek-V3 that run in FP8, for benchmarks and compilation."""

# N x K of each weight as served, where q_a and kv_a are one matrix and so are gate and up.
WEIGHTS = {
  "q_a+kv_a": (2112, 7168),
  "q_b": (24576, 1536),
  "kv_b": (32768, 512),
  "o": (7168, 16384),
  "expert gate+up": (4096, 7168),
  "expert down": (7168, 2048),
  "dense gate+up": (36864, 7168),
  "dense down": (7168, 18432),
}
TOKENS = (64, 128, 4096)  # of decoding, and of a step of prefill or training

# M x N x K that others publish figures for (DeepGEMM's README, sglang's issue 5820).
PUBLISHED = (
  (4096, 2112, 7168),
  (4096, 24576, 1536),
  (4096, 7168, 16384),
  (4096, 4096, 7168),
  (4096, 7168, 2048),
  (4096, 24576, 7168),
)

# V2-Lite's layer, 4096 tokens a step: what of it is dense.
V2_LITE = {
  "q": (3072, 2048),
  "kv_a": (576, 2048),
  "kv_b": (4096, 512),
  "o": (2048, 2048),
  "shared gate+up": (5632, 2048),
  "shared down": (2048, 2816),
}

SMALL = {"small": (256, 384)}
SMALL_TOKENS = (64, 128)
