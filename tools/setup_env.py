"""Make or refresh the environment in .venv; `make env` calls it.

The syntax of this file is understood by every Python 3, so that an unsupported one is told what is wanted instead of
failing on a syntax error. The work is done by the package `environment` beside it.
"""

import platform
import sys

SUPPORTED = (3, 11)


def python_problem(version, implementation):
    """Return why this interpreter cannot be used, or None."""
    release = "%d.%d" % tuple(version[:2])
    supported = "%d.%d" % SUPPORTED
    if implementation == "CPython" and release == supported:
        return None
    return (
        "environment: needs CPython %s, but %s is %s %s; install it (Debian 12: apt-get install python3.11 "
        "python3.11-venv) or name one: make PYTHON=/path/to/python3.11"
    ) % (supported, sys.executable, implementation, release)


def main():
    """Return the exit status: 0 when the environment stands."""
    problem = python_problem(sys.version_info, platform.python_implementation())
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    from environment.main import main as set_up

    return set_up()


if __name__ == "__main__":
    sys.exit(main())
