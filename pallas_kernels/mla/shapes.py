"""Rows, heads and slots of decoding with the released models, for benchmarks and compilation."""

LATENT, ROPE = 512, 64  # of every released model
SCALE = 192**-0.5  # V3's without the correction for long contexts

# (name, rows B, heads H, slots S)
SHAPES = (
  ("V3 128 rows", 128, 128, 4096),
  ("V3 1 row", 1, 128, 32768),
  ("V2-Lite 32 rows", 32, 16, 2048),
)

SMALL = (("small", 2, 16, 256),)
