"""Mathematics without parameters: plain functions of arrays, testable without Flax."""
