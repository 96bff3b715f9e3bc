"""The EXIF orientation of WebP images, which OpenCV applies in some versions only.

OpenCV 4.11 ignores it, OpenCV 5.0 applies it. Here OpenCV always ignores it, and this module
applies it. Every version turns JPEG, PNG and TIFF.
"""

import struct

import cv2

_ORIENTATION, _SHORT = 0x0112, 3  # a tag of EXIF and the type of its value

# What makes an image upright, by its orientation; 1 is upright.
_TURNS = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def is_webp(data):
    """Return whether the bytes of a file are a WebP's."""
    return bytes(data[:4]) == b"RIFF" and bytes(data[8:12]) == b"WEBP"


def webp_orientation(data):
    """Return the orientation in the EXIF of a WebP, 1 to 8; 1 where there is none."""
    exif = _chunk(data, b"EXIF")
    if exif.startswith(b"Exif\0\0"):  # as in a JPEG; some programs write it here, too
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for number in range(num_entries):
            place = directory + 2 + 12 * number
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, place)
            if tag == _ORIENTATION and kind == _SHORT:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # the EXIF is cut short
        pass
    return 1


def turn_upright(image, orientation):
    """Return the pixels of an image, turned upright from its orientation."""
    turn = _TURNS.get(orientation)
    return turn(image) if turn else image


def _chunk(data, name):
    """Return the content of the first chunk `name` of a RIFF file; nothing where there is none."""
    position = 12  # "RIFF", size, "WEBP"
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if bytes(data[position - 8 : position - 4]) == name:
            return bytes(data[position : position + size])
        position += size + size % 2
    return b""
