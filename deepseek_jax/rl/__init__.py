"""Reinforcement learning: rollouts, advantages and rejection sampling."""
