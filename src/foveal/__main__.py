"""`python -m foveal`, and what `accelerate launch -m foveal` starts."""

from foveal.cli import main

if __name__ == "__main__":
    main()
