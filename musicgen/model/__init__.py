"""The network, its cells on CPU and CUDA, and sampling with torch. Imports torch."""
