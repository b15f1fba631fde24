"""The engine in a directory, on LMDB."""
