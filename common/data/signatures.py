"""What a file that OpenCV cannot read is, by its first bytes, and what to do about it."""

_IMAGES = {
    b"GIF8": "a GIF",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
}
_ARCHIVES = {b"PK\3\4": "a zip", b"\x1f\x8b": "a gzip", b"7z\xbc\xaf": "a 7z", b"Rar!": "a rar"}
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def explain(data):
    """Return what the bytes of a file are and how to fix it; None where that is not known.

    `is a GIF, not a JPEG or PNG; convert it`
    """
    head = bytes(data[:512])
    image = _starts_with(head, _IMAGES) or _media(head)
    if image:
        return f"is {image}, not a JPEG or PNG; convert it"
    archive = _starts_with(head, _ARCHIVES)
    if archive:
        return f"is {archive} archive, not a JPEG or PNG; unpack it"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the photograph; fetch it with: git lfs pull"
    if text.startswith(_PAGES):
        return "is a web page (HTML), not a photograph; download it again"
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return "is an SVG drawing, not a JPEG or PNG; convert it"
    if text.startswith((b"<?xml", b"{")):
        return "is text (XML or JSON), not a photograph; download it again"
    return None


def _starts_with(head, kinds):
    return next((kind for start, kind in kinds.items() if head.startswith(start)), None)


def _media(head):
    """Say which kind of ISO media file it is (AVIF, HEIC, a video), by its brands; None if not."""
    if head[4:8] != b"ftyp":
        return None
    box = head[8 : int.from_bytes(head[:4], "big")]
    brands = {box[place : place + 4] for place in range(0, len(box), 4)}
    if brands & _AVIF_BRANDS:
        return "an AVIF"
    return "a HEIC" if brands & _HEIC_BRANDS else "a video"
