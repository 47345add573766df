"""Makes the shared parts of the tests (tests/oracle/) importable: pytest puts this file's folder on the path."""
