"""Multi-head latent attention while decoding: one query per row over the cache of latents."""
