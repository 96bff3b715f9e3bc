"""Tests of the engines, and of one compared with the other."""
