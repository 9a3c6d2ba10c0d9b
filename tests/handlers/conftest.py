"""The toy training of the engine tests."""

from tests.engines.conftest import _seeded, make_trainer

__all__ = ["_seeded", "make_trainer"]
