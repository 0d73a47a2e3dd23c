"""Evaluation of a clustering: metrics, baselines on the jet mass, figures and the self-contained HTML page.

Everything here works on NumPy arrays and small aggregated tables; nothing imports Spark or TensorFlow.
"""
