"""For a test: an import that takes long, and turns an interruption into its own error."""

import time

try:
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("this library could not be loaded") from None
