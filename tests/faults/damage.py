"""Damage to files: bytes flipped, files cut short, emptied, overwritten and replaced."""

import os


def flip_byte(path, rng):
    """Change one byte anywhere."""
    _flip(path, rng.randrange(os.path.getsize(path)), rng)


def flip_early_byte(path, rng):
    """Change one of the first 64 bytes: where headers are."""
    _flip(path, rng.randrange(min(64, os.path.getsize(path))), rng)


def _flip(path, position, rng):
    with open(path, "r+b") as stream:
        stream.seek(position)
        (byte,) = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ rng.randrange(1, 256)]))


def scramble_block(path, rng):
    """Overwrite up to 512 bytes with noise, as a bad sector does."""
    size = os.path.getsize(path)
    start = rng.randrange(size)
    with open(path, "r+b") as stream:
        stream.seek(start)
        stream.write(rng.getrandbits(8 * 512).to_bytes(512, "little")[: size - start])


def zero_end(path, rng):
    """Fill the end with zeros, as some file systems do after a power failure."""
    size = os.path.getsize(path)
    start = rng.randrange(size)
    with open(path, "r+b") as stream:
        stream.seek(start)
        stream.write(bytes(size - start))


def cut_short(path, rng):
    """Cut off the end."""
    os.truncate(path, rng.randrange(1, os.path.getsize(path)))


def lengthen(path, rng):
    """Append the file to itself, as in a download that was resumed wrongly."""
    with open(path, "r+b") as stream:
        content = stream.read()
        stream.write(content[: rng.randrange(1, len(content) + 1)])


def empty(path, rng):
    """Leave no byte."""
    os.truncate(path, 0)


def swap_kind(path, rng):
    """Replace it by a file of another kind."""
    others = [
        b"<html><body>404 Not Found</body></html>\n",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"PK\x03\x04" + bytes(64),
        b"\x80\x02}q\x00.",
        b"[1, 2, 3]\n",
        b"1\t2\t3\n",
        "Müller\n".encode("latin-1"),
    ]
    with open(path, "wb") as stream:
        stream.write(rng.choice(others))


def make_folder(path, rng):
    """Replace it by a folder."""
    os.remove(path)
    os.mkdir(path)


def make_link_to_nowhere(path, rng):
    """Replace it by a symbolic link that leads to nothing."""
    os.remove(path)
    os.symlink("nothing", path)


def make_loop(path, rng):
    """Replace it by a symbolic link to itself, which not even root can read."""
    os.remove(path)
    os.symlink(os.path.basename(path), path)


def remove(path, rng):
    """Remove it."""
    os.remove(path)


DAMAGES = (
    flip_byte,
    flip_early_byte,
    scramble_block,
    zero_end,
    cut_short,
    lengthen,
    empty,
    swap_kind,
    make_folder,
    make_link_to_nowhere,
    make_loop,
    remove,
)
