"""Read and write ABC, the text form of folk tunes (standard 2.1).

`parse` is the inverse of `render` on canonical scores; `read` parses a file.
"""

from musicgen.formats.abc.abc_reader import decode_bytes, iter_tunes, parse, read
from musicgen.formats.abc.abc_writer import render

__all__ = ["decode_bytes", "iter_tunes", "parse", "read", "render"]
