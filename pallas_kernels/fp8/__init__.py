"""Quantisation to FP8 as DeepSeek-V3 does it (2412.19437, section 3.3)."""
