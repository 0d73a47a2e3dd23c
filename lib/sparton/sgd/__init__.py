"""Clustering of any table by stochastic gradient descent: pure step functions on arrays and one shared trainer."""
