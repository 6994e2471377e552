"""Seconds, memory and values of evaluation.metrics, scikit-learn and a threshold loop, on synthetic maps.

    python3 benchmarks/metrics.py [--images 100] [--size 512] [--quick]

Each measurement is a process of its own. Half of the images are good; the maps are smooth noise with fine
grain and a blurred blob on each defect, seeded. AUPRO is exact in ours; the loop's 200 thresholds approximate it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
THRESHOLDS = 200
REPEATED, ENOUGH = 5, 10  # runs of which the median counts, fewer if they take so many seconds


def make_maps(images, size):
    """Maps [N,S,S] float32 and masks [N,S,S] bool; filled in place, so that making them needs no more memory."""
    rng = np.random.default_rng(0)
    maps, masks = np.empty((images, size, size), np.float32), np.zeros((images, size, size), bool)
    for index in range(images):
        coarse = rng.random((size // 32 + 1, size // 32 + 1), np.float32)
        maps[index] = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        maps[index] += 0.05 * rng.standard_normal((size, size), np.float32)
        if index % 2 == 0:
            continue
        drawn = np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(1, 4)):
            centre, axes = rng.integers(0, size, 2).tolist(), (size * rng.uniform(0.02, 0.08, 2)).astype(int).tolist()
            cv2.ellipse(drawn, centre, axes, 0, 0, 360, 1, -1)
        masks[index] = drawn
        maps[index] += rng.uniform(0.3, 1) * cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), size / 64)
    return maps, masks


def ours(maps, masks):
    from evaluation.metrics import segmentation

    return lambda: segmentation(maps, masks)


def sklearn(maps, masks):
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    def measure():
        labels, scores = masks.ravel(), maps.ravel()
        auroc, ap = roc_auc_score(labels, scores), average_precision_score(labels, scores)
        precision, recall, _ = precision_recall_curve(labels, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return {"pixel_auroc": auroc, "pixel_ap": ap, "pixel_f1max": f1.max()}

    return measure


def loop(maps, masks):
    def measure():
        regions = []  # flat positions of each region's pixels
        for index in range(len(masks)):
            count, labels = cv2.connectedComponents(masks[index].astype(np.uint8), connectivity=8)
            regions += [np.flatnonzero(labels == number) + index * labels.size for number in range(1, count)]
        sizes = [len(region) for region in regions]
        pixels, starts = np.concatenate(regions), np.cumsum([0, *sizes[:-1]])
        x, y = [], []
        for threshold in np.linspace(maps.max(), maps.min(), THRESHOLDS):
            found = maps >= threshold
            hits = found.ravel()[pixels]
            x.append((np.count_nonzero(found) - np.count_nonzero(hits)) / (maps.size - len(pixels)))
            y.append(np.mean(np.add.reduceat(hits, starts, dtype=np.int64) / sizes))
        inside = np.array(x) < 0.3
        x, y = np.append(np.array(x)[inside], 0.3), np.append(np.array(y)[inside], np.interp(0.3, x, y))
        return {"aupro": np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2 / 0.3}

    return measure


METHODS = {"ours": ours, "sklearn": sklearn, "loop": loop}


def peak_mb():
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def child(method, images, size):
    """Measure one method here and print it as JSON; imports and inputs are made before time and memory are measured."""
    METHODS[method](*make_maps(2, 64))()  # not measured: the first call imports modules
    measure, times = METHODS[method](*make_maps(images, size)), []
    before = peak_mb()
    while len(times) < REPEATED and sum(times) < ENOUGH:
        start = time.perf_counter()
        values = {name: float(value) for name, value in measure().items()}
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times))
    print(json.dumps({"values": values, "seconds": seconds, "increase": peak_mb() - before, "total": peak_mb()}))


def run(method, images, size):
    """Measure in a fresh process, since a process's peak memory never falls."""
    print(f"... {method}: {images} maps of {size}x{size}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "benchmarks.metrics", "--child", method]
    command += ["--images", str(images), "--size", str(size)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def row(name, result):
    values = [f"{result['values'][key]:12.7f}" if key in result["values"] else f"{'-':>12}" for key in NAMES]
    return f"{name:<32}{result['seconds']:9.2f}{result['increase']:10.0f}{result['total']:9.0f}{''.join(values)}"


def compare(images, size):
    results = {method: run(method, images, size) for method in METHODS}
    inputs = images * size**2 * 5 / 2**20
    print(f"\n{images} maps of {size}x{size}: {images * size**2 / 1e6:.1f} M pixels, inputs {inputs:.0f} MiB")
    print(f"{'':<32}{'seconds':>9}{'peak +MiB':>10}{'total':>9}" + "".join(f"{name:>12}" for name in NAMES))
    print(row("ours (exact)", results["ours"]))
    print(row("scikit-learn", results["sklearn"]))
    print(row(f"loop, {THRESHOLDS} thresholds (approx.)", results["loop"]))
    slow = results["sklearn"]["seconds"] + results["loop"]["seconds"]
    print(f"scikit-learn + loop: {slow:.2f} s, {slow / results['ours']['seconds']:.1f} times ours\n")


def growth(title, cases):
    results = [(images, size, run("ours", images, size)) for images, size in cases]
    print(f"\nours, growing {title}")
    print(f"{'images':>8}{'size':>8}{'M pixels':>10}{'seconds':>10}{'ns/pixel':>10}{'peak +MiB':>11}")
    for images, size, result in results:
        pixels = images * size**2
        figures = f"{result['seconds']:10.3f}{result['seconds'] / pixels * 1e9:10.1f}{result['increase']:11.0f}"
        print(f"{images:>8}{size:>8}{pixels / 1e6:>10.1f}{figures}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="maps; growth goes from a quarter to twice as many")
    parser.add_argument("--size", type=int, default=512, help="side in pixels; growth likewise")
    parser.add_argument("--quick", action="store_true", help="16 maps of 128x128, to see if it runs")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    images, size = (16, 128) if args.quick else (args.images, args.size)
    if args.child:
        return child(args.child, images, size)
    compare(images, size)
    factors = (0.25, 0.5, 1, 2)
    growth("number of images", [(max(2, int(images * factor)), size) for factor in factors])
    growth("size", [(max(2, images // 4), int(size * factor)) for factor in factors])


if __name__ == "__main__":
    main()
