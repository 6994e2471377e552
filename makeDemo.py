"""Draw the demo data set (two categories in MVTec layout), to try the toolkit with nothing downloaded."""

import argparse

from datasets.demo import CATEGORIES, DEFAULT_ROOT, render
from utils.command import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--root", default=DEFAULT_ROOT, help="folder that gets one folder per category")
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES), help="which of them to draw")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels, 32 or more")
    parser.add_argument("--train", type=int, default=60, help="good pictures to train on, per category")
    parser.add_argument("--good", type=int, default=20, help="good pictures to test on, per category")
    parser.add_argument("--per_defect", type=int, default=10, help="pictures of each kind of defect")
    parser.add_argument("--seed", type=int, default=0, help="another number draws other pictures")
    render(**vars(parser.parse_args()))


if __name__ == "__main__":
    run(main)
