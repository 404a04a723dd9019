"""What every test may be told on the command line."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write the answers in tests/core/scenarios anew; read the difference before it is committed",
    )
    parser.addoption(
        "--rewrite-screens",
        action="store_true",
        help="write the pictures in tests/shell/screens anew; read the difference before it is committed",
    )
