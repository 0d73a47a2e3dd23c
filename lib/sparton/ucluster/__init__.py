"""UCluster: a graph network that embeds jets so that they form clusters, trained without labels.

V. Mikuni and F. Canelli, Phys. Rev. D 103 (2021) 092007, distributed as in O. Sunneborn Gudnadottir et al., EPJ Web
Conf. 251 (2021) 02054. Importing the settings loads no TensorFlow.
"""
