"""`python -m service`: the same as `oodscore`."""

from service.cli import main

main()
