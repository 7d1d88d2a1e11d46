"""The grouped matmuls of released models, for benchmarks and compilation."""

# (name, groups, choices, N, K): gate and up are one matrix. DeepGEMM's README has figures for the
# first six; the last two are a training step of V2-Lite on one device, 4096 tokens and top 6.
SHAPES = (
  ("V3 gate+up, 4x8192", 4, 32768, 4096, 7168),
  ("V3 down, 4x8192", 4, 32768, 7168, 2048),
  ("V3 gate+up, 8x4096", 8, 32768, 4096, 7168),
  ("V3 down, 8x4096", 8, 32768, 7168, 2048),
  ("V3 gate+up, 4x256", 4, 1024, 4096, 7168),
  ("V3 down, 4x256", 4, 1024, 7168, 2048),
  ("V2-Lite gate+up", 64, 24576, 2816, 2048),
  ("V2-Lite down", 64, 24576, 2048, 1408),
)

SMALL = (("small", 3, 200, 256, 384),)
