"""The commands `train` and `semi` in each of torchrun's processes: `torchrun ... -m lostgan_train OPTIONS` trains, and
`torchrun ... -m lostgan_train semi OPTIONS` is the other one."""

from lostgan_serve.commands import main

if __name__ == "__main__":
    import sys

    own = sys.argv[1:]
    main(own if own[:1] == ["semi"] else ["train", *own], prog_name="lostgan_train")
