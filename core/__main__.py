"""`python -m gpt2edge`."""

from .cli import main

if __name__ == "__main__":
    main()
