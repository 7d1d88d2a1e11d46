"""Problems, verifiers, prompts and worked solutions: plain Python, importable without jax."""
