"""The matrices that DeepSeek-V3 quantises in a step of 4096 tokens, for benchmarks."""

# (name, rows, columns)
ACTIVATIONS = (("hidden states", 4096, 7168), ("attention's output", 4096, 16384))
HIDDEN = (("dense layer", 4096, 18432), ("experts, 8x4096", 32768, 2048))  # of SwiGLU
WEIGHTS = (("expert gate+up", 4096, 7168), ("o", 7168, 16384))

SMALL = (("small", 256, 384),)  # for any of the three
