"""
Ctrl-C while a script is still importing, which takes seconds: one line and status 130, as later.

The scripts import this first. It does nothing for other programs that import ours.
"""
import os
import signal
import sys


def stop(number, frame):
    """End at once: an exception might get lost in what is being imported."""
    os.write(2, b"\nstopped by Ctrl-C\n")
    os._exit(130)


here = os.path.dirname(os.path.abspath(__file__))
script = os.path.abspath(getattr(sys.modules["__main__"], "__file__", None) or "")
# Where Ctrl-C is ignored, as in a job in the background of a shell, it stays so.
is_ours = os.path.dirname(script) in (here, os.path.join(here, "data"))
if is_ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)
