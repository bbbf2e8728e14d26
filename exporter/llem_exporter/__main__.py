"""`python -m llem_exporter`."""

from llem_exporter.cli import main

if __name__ == "__main__":
    main()
