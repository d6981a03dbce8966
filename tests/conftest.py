"""What holds for every test: one thread for each process, so that processes that run side by side do not wait."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
