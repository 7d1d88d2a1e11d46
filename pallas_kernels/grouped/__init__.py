"""Matmuls of experts: each group of rows meets a matrix of its own."""
