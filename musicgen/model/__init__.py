"""The rooms that import torch: the network and its training."""
