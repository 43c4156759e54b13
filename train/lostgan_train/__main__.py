"""`torchrun ... -m lostgan_train OPTIONS`: `lostgan-serve train` in each of torchrun's processes."""

from lostgan_serve.cli import main

if __name__ == "__main__":
    import sys

    main(["train", *sys.argv[1:]], prog_name="lostgan_train")
