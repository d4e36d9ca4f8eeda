"""`python -m facewright`: the command line where scripts are not on the path."""

from .cli.commands import main

if __name__ == "__main__":
    main()
