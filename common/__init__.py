"""What two or more steps share, in packages whose imports go one way (CONTRIBUTING.md)."""

import os

# Set here because cv2 reads it when it is imported. An image may claim any size, and OpenCV's own
# limit of 2^30 pixels is 3 GB for each thread that decodes. The largest photographs of phones have
# 200 million pixels: to pack those, set the variable higher.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))
