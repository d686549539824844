"""A Python part whose import takes as long as a test wants: it says that it has begun, and waits for an answer."""

import os
import select

os.write(int(os.environ["TEST_BEGUN"]), b".")
# A fork that waits for the end of this import cannot answer before it: then the time runs out.
select.select([int(os.environ["TEST_FORKED"])], [], [], 0.5)

import trap_entry  # noqa: E402, F401
