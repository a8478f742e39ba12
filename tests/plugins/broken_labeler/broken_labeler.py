"""Fails when it is imported, as a package does whose own library is of another version."""

raise ImportError("cannot import name 'parse' from 'parser_of_yesterday'")
