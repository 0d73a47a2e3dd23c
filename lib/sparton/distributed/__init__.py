"""Ranks and what they do together: the world, collectives, launching on Spark, agreement and checkpoints.

Nothing here imports Horovod, TensorFlow or Spark before it is needed; no other package of the project imports Horovod.
"""

from sparton.distributed.collectives import Collectives, LocalCollectives
from sparton.distributed.world import Connection, World, connect

__all__ = ["Collectives", "Connection", "LocalCollectives", "World", "connect"]
