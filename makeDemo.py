"""Draw the demo data set (two categories in MVTec layout), to try the toolkit without a download."""

import argparse
import shlex

from utils.command import Flags, run, whole_number


def main() -> None:
    from datasets.demo import CATEGORIES, DEFAULT_ROOT, LARGEST, render

    parser = Flags(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    count = whole_number(0, 10**5)
    parser.add_argument("--root", default=DEFAULT_ROOT, help="output folder; each category becomes a folder in it")
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES), help="categories to draw")
    parser.add_argument("--size", type=whole_number(32, LARGEST), default=256, help="width and height in pixels")
    parser.add_argument("--train", type=count, default=60, help="good pictures to train on, per category")
    parser.add_argument("--good", type=count, default=20, help="good pictures to test on, per category")
    parser.add_argument("--per_defect", type=count, default=10, help="pictures to test on of each defect type")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="another seed draws other pictures")
    args = parser.parse_args()
    render(**vars(args))
    category, root = args.categories[0], args.root
    print(f"drawn into {root}: {', '.join(dict.fromkeys(args.categories))}")
    print(f"  {args.train} good pictures to train on, {args.good} to test on, {args.per_defect} of each defect type")
    print(f"train on one: python3 trainNet.py {shlex.quote(f'data_path={root}')} obj={category}")


if __name__ == "__main__":
    run(main, sizes="--size")
