"""Packaging of deepseek_jax."""

import pathlib

from setuptools import find_packages, setup

REQUIRED = [
  "jax>=0.10",
  "flax>=0.12",
  "optax>=0.2.5",
  "orbax-checkpoint>=0.11",
  "grain>=0.2.12",
  "ml-collections>=1.0",
  "absl-py>=2.1",
  "safetensors>=0.5",
  "tensorboardX>=2.6",
  "jaxtyping>=0.2.34",
  "matplotlib>=3.8",
]

EXTRAS = {
  "hf": ["tokenizers>=0.21"],
  "parquet": ["pyarrow>=17"],
  "reasoning-gym": ["reasoning-gym>=0.1.19"],
  "gpu": ["jax[cuda12]>=0.10"],
  "tpu": ["jax[tpu]>=0.10"],
}
EXTRAS["dev"] = [
  *EXTRAS["hf"],
  *EXTRAS["parquet"],
  *EXTRAS["reasoning-gym"],
  "hypothesis>=6.100",
  "ipykernel>=6",
  "mypy>=1.13",
  "nbclient>=0.10",
  "pytest>=8",
  "ruff>=0.9",
  # The parity tests compare with transformers; on other Pythons they skip by name.
  "torch==2.13.0; python_version == '3.11'",
  "transformers>=5.23",
]

setup(
  name="deepseek-jax",
  version="0.1.0",
  description="DeepSeek-V3 and R1 in JAX: the model, its training, the road to R1, distillation",
  long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="MIT",
  python_requires=">=3.11",
  packages=find_packages(include=["deepseek_jax*", "pallas_kernels*"]),
  install_requires=REQUIRED,
  extras_require=EXTRAS,
)
