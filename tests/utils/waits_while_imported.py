"""For a test: an import that takes long, and turns an interruption into an error of its own."""

import time

try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("this library could not be loaded") from None
