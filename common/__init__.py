"""What two or more steps share, one room a file."""

import os
import sys


def _stop_in_one_line(kind, error, traceback):
    """The `sys.excepthook` of a script that is importing: Ctrl-C ends it as `script.run_script`."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{os.path.basename(sys.argv[0])}: stopped by Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _stop_in_one_line

# Before anything imports cv2, which reads it then: an image may claim any size, and OpenCV's own
# limit of 2^30 pixels is 3 GB for each thread that decodes. The largest photographs of telephones
# have 200 million pixels; who packs those sets it higher.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))
