"""The shipped labelers, one a file; the file name is the labeler's name."""
