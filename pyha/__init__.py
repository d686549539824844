"""pyha: a PKCS#11 module that shows one virtual slot over several member tokens."""

__version__ = "0.1.0"
