"""Read and write ABC, the text form of folk tunes (standard 2.1).

`parse` and `render` undo each other on canonical scores of one part; `read` opens a file.
"""

from musicgen.formats.abc.fields import CODES
from musicgen.formats.abc.reader import decode_bytes, parse, read
from musicgen.formats.abc.writer import render

__all__ = ["CODES", "decode_bytes", "parse", "read", "render"]
