"""Rewards of sampled answers: named functions, a user's own, another machine's, a model's."""
