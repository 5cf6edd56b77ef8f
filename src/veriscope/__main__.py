"""`python -m veriscope` is the `veriscope` command."""

from veriscope.cli import main

if __name__ == "__main__":
    main()
