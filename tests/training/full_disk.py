"""A child of the corpus check whose disk is full."""

import errno


def run(_paths):
    raise OSError(errno.ENOSPC, "full")
