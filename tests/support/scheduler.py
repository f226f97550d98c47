"""Distributes tests over processes."""

from xdist.scheduler import LoadScopeScheduling

# Tests that share a running stack, or start stacks of their own that a machine should not run all at once.
TOGETHER = {
    "tests/e2e/test_chaos.py": "stacks of their own",
    "tests/e2e/test_demo.py": "stacks of their own",
    "tests/integration/test_event_source_mapping.py": "an emulator",
}


class StackScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives tests that share a stack to one process, and each other test function to the next free one.

    The marks of xdist would say this, too, but pytest 9.2 ignores them.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path in TOGETHER:
            return TOGETHER[path]
        return "the stack" if path.startswith("tests/e2e/") else nodeid.partition("[")[0]
