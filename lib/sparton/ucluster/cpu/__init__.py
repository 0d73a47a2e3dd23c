"""The network's hot loops on a CPU: compiled kernels that keep a jet's edges in cache, as TensorFlow operations.

What they compute is defined by :mod:`sparton.ucluster.edges`, :mod:`sparton.ucluster.graph` and
:mod:`sparton.ucluster.normalisation`, which run anywhere; here it is only faster.
"""
