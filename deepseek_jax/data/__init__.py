"""Tokenizers, corpora, fill-in-the-middle, packing: text in, `types.Batch` of numpy arrays out."""
