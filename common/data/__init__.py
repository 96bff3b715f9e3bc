"""Annotations, lists, records, images and batches: numpy and OpenCV, and no engine."""
