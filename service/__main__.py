"""`python -m service`: the command `carousel`."""

from service.cli.main import main

if __name__ == "__main__":
    main()
