"""Jets as NumPy arrays: generation with Pythia 8 and FastJet, kinematics, grooming and features.

Nothing here knows of Spark or TensorFlow.
"""
