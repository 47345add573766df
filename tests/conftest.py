"""Makes the shared parts of the tests (tests/oracle/) importable: pytest puts this file's folder on the path.

Where there is no GPU, Triton's kernels run in its interpreter; Triton asks for that once, when it is first imported.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
