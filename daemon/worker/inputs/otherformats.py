"""What a file is that was taken for TFRecord and is none, and what to do with it. Reads its first bytes alone."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from daemon.worker.inputs.batches import refused
from daemon.worker.inputs.tfrecord import LENGTH, is_compressed

HEAD_BYTES: Final = 512
EXAMPLE_BYTES: Final = 1 << 31  # a protobuf message is smaller


class Other(NamedTuple):
    """A format, as messages call it, and what to do with a file of it."""

    called: str
    remedy: str


REWRITE: Final = 'write it as JSON lines, .npy or TFRecord, or read it by a function: input = "module:callable"'
PICTURES: Final = "write it as JPEG or PNG"
UNPACK: Final = "unpack it, or compress it with gzip instead"
HDF5: Final = Other("an HDF5 file", REWRITE)
PARQUET: Final = Other("a Parquet file", REWRITE)
ARROW: Final = Other("an Arrow file", REWRITE)
PICKLE: Final = Other("a pickle", REWRITE)
ZSTD: Final = Other("compressed with zstd", UNPACK)
BZIP2: Final = Other("compressed with bzip2", UNPACK)
XZ: Final = Other("compressed with xz", UNPACK)
JSON: Final = Other("JSON", "write each item on a line of its own, into a file that ends with .jsonl")
TEXT: Final = Other("a text file", 'write each item on a line of JSON, as "a text", into a file that ends with .jsonl')

BY_MAGIC: Final = {  # how a file begins
    b"\x93NUMPY": Other("a .npy file", "give it a name that ends with .npy, uncompressed"),
    b"PK\x03\x04": Other("a ZIP archive", "give it a name that ends with .npz if numpy.savez wrote it, or unpack it"),
    b"\x89PNG\r\n\x1a\n": Other("a PNG file", "give it a name that ends with .png"),
    b"\xff\xd8\xff": Other("a JPEG file", "give it a name that ends with .jpg"),
    b"GIF8": Other("a GIF file", PICTURES),
    b"II*\0": Other("a TIFF file", PICTURES),
    b"MM\0*": Other("a TIFF file", PICTURES),
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"PAR1": PARQUET,
    b"ARROW1": ARROW,
    b"SQLite format 3\0": Other("an SQLite database", REWRITE),
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"BZh": BZIP2,
    b"\xfd7zXZ\0": XZ,
}
BY_SUFFIX: Final = {
    ".json": JSON,
    ".csv": Other("a CSV file", REWRITE),
    ".tsv": Other("a TSV file", REWRITE),
    ".txt": TEXT,
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".pkl": PICKLE,
    ".pickle": PICKLE,
    ".gif": Other("a GIF file", PICTURES),
    ".webp": Other("a WebP file", PICTURES),
    ".bmp": Other("a BMP file", PICTURES),
    ".tif": Other("a TIFF file", PICTURES),
    ".tiff": Other("a TIFF file", PICTURES),
}


def check(file: Path) -> None:
    """Raises Refused (input) where the file is known for something else than TFRecord; OSError."""
    head, is_packed = _head(file)
    if len(head) < LENGTH.size or LENGTH.unpack_from(head)[0] < EXAMPLE_BYTES:
        return
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    found = next((other for magic, other in BY_MAGIC.items() if head.startswith(magic)), None)
    if found is None:
        found = BY_SUFFIX.get(suffix) or _spoken(head)
    if found is not None:
        packed = ", in a gzip file" if is_packed else ""
        raise refused(file, f"it is {found.called}{packed}, and no TFRecord file", found.remedy)


def _head(file: Path) -> tuple[bytes, bool]:
    """The file's first bytes, unpacked where it is a gzip file; and whether it is one."""
    if not is_compressed(file):
        with file.open("rb") as stream:
            return stream.read(HEAD_BYTES), False
    try:
        with gzip.open(file) as stream:
            return stream.read(HEAD_BYTES), True
    except (EOFError, gzip.BadGzipFile, zlib.error):  # damaged: told by who reads it
        return b"", True


def _spoken(head: bytes) -> Other | None:
    """What a text is, by how it begins; None where it is none."""
    if b"\0" in head:
        return None
    text = head.decode("utf-8-sig", "ignore")  # the last character may be cut
    if len(text.encode()) < len(head) - 6 or not text.lstrip():  # six: of a mark at the beginning, and that character
        return None
    return JSON if text.lstrip()[0] in "{[" else TEXT
