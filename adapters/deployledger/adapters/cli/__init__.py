"""The command line. It knows the service's methods and nothing of what is behind them.

Imports are lazy throughout: ``deployledger --help`` loads neither the service nor a database driver.
"""

from deployledger.adapters.cli.app import run

__all__ = ["run"]
