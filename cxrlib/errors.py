"""The one error that a user is meant to read."""


class CxrError(Exception):
    """Bad input or a bad environment, said in one line that ends with what to do.

    The command line prints the message alone and exits with 2; a traceback would only hide it.
    """
