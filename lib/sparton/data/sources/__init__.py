"""Readers of public and own jet formats: one module a format, all giving :class:`~sparton.data.sources.block.JetBlock`.

``registry`` names the formats, ``table`` turns blocks into the jets table, ``spark_sources`` offers them to Spark.
"""
