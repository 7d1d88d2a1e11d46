"""The router of DeepSeek-V2 and V3: which experts a token visits, with which weights, and where."""
