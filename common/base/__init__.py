"""What every module may use: files, how a script begins and ends, flags, progress, downloads."""
