"""How CTest runs a unittest in the application: by the name of its module."""

from __future__ import annotations

import sys
import unittest


def runUnitTest(path: str | list[str], testname: str) -> None:
    """Run all test cases of the module `testname`, found in the folders `path`. Raises when one fails."""
    sys.path.extend([path] if isinstance(path, str) else path)
    suite = unittest.TestLoader().loadTestsFromName(testname)
    if not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful():
        raise RuntimeError(f"A test of {testname} failed.")
