"""Attacks on the server, each with the tests that repeat it; see __main__.py."""
