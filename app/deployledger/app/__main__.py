"""``python -m deployledger.app`` is ``deployledger``."""

from deployledger.app.command_line import main

main()
