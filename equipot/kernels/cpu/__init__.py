"""Generated C++ for the CPU of this machine."""
