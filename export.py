"""Export a finished run: a model that needs no torch, checked against the run, with its card."""

from pathlib import Path
from typing import Any

from utils.command import Flags, run


def main() -> None:
    parser = Flags(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run, such as results/st/screw")
    parser.add_argument(
        "--format", required=True, choices=["onnx", "openvino"], help="model.onnx, or model.xml and .bin"
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "int8"],
        default="fp32",
        help="arithmetic of the networks; distances and maps are always in fp32 (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a new folder, or that of an earlier export"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="other good images that set the thresholds (default: the run's)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as false_reject_rate=0.05")
    args = parser.parse_intermixed_args()

    from deploy.export import Export, check_free
    from utils.console import say

    check_free(args.out)
    card = Export(args.run, args.format, args.precision, args.images, args.overrides).write(args.out)
    for line in summary(card, args.out):
        say(line)


def summary(card: dict[str, Any], out: Path) -> list[str]:
    """What to tell the user."""
    check, fastest = card["check"], min(card["speed"], key=lambda each: each["p50_ms"])
    return [
        f"on {check['images']} images, scores differ from PyTorch's by at most {100 * check['score_difference']:.2g} % "
        f"and maps by at most {100 * check['map_difference']:.2g} %; decisions: {check['decisions']}",
        f"{fastest['p50_ms']:.1f} ms for an image with {fastest['threads']} thread(s)",
        f"model and card: {out}; use it with: python3 predict.py --model {out} IMAGES",
    ]


if __name__ == "__main__":
    run(main)
