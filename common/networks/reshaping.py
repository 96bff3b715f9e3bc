"""MXNet's codes of a reshape: 0 copies a size, -1 takes the rest, -3 joins two, -4 splits one."""


def reshape_codes(old, new):
    """Return the codes that turn shape `old` into `new` for any batch size; None if there are none.

    Where possible, sizes are copied, joined or split, so that the codes also hold for images of
    another size; else they are numbers.
    """
    if not new or old[0] != new[0]:
        return None
    codes, i, j = [0], 1, 1
    while j < len(new):
        rest = tuple(new[j:])
        if i == len(old):
            codes.append(rest[0])  # 1, whatever the size of the images
            j += 1
        elif old[i:] == rest[:1] or (old[i] == rest[0] and len(rest) > 1):
            codes.append(0)
            i, j = i + 1, j + 1
        elif len(rest) == 1 and -4 not in codes:  # MXNet computes a -1 after a -4 wrongly
            codes.append(-1)
            j += 1
        elif len(rest) > 1 and old[i] == rest[0] * rest[1]:
            codes += [-4, rest[0], rest[1]]
            i, j = i + 1, j + 2
        elif i + 1 < len(old) and old[i] * old[i + 1] == rest[0]:
            codes.append(-3)
            i, j = i + 2, j + 1
        else:
            return (0, *new[1:])
    return tuple(codes)


def reshaped(shape, codes):
    """Return the sizes that MXNet's codes make of `shape`; 0 for the batch, -1 for what is left.

    The result holds for any batch size, as ONNX writes it.
    """
    sizes, i, position = [], 0, 0
    codes = list(codes)
    while position < len(codes):
        code = codes[position]
        if code == 0:
            sizes.append(shape[i] if i else 0)
        elif code == -2:
            sizes += shape[i:]
            i = len(shape)
        elif code == -3:
            sizes.append(shape[i] * shape[i + 1] if i else -1)
            i += 1
        elif code == -4:
            sizes += _split(shape[i], *codes[position + 1 : position + 3])
            position += 2
        else:
            sizes.append(code)
        i, position = i + 1, position + 1
    return sizes


def _split(size, first, second):
    return [size // second if first == -1 else first, size // first if second == -1 else second]
