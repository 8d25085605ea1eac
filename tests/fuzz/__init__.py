"""Calls of the raw and public ops with arguments that nobody should pass: they may raise, and nothing else but return.

`make fuzz` makes 10,000 of them under the sanitizers; tests/test_fuzz.py makes a few on the library as it is installed.
"""
