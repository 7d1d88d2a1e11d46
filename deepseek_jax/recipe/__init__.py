"""The whole of R1 as one resumable run: the graph of its stages, their ledger, the summary."""
