"""Starlette's test client, which asks for a successor of httpx that is not among our pinned packages."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Using `httpx` with", category=Warning)
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
