"""What runs inside the sandbox, before and around a program; of Python's own library alone."""
