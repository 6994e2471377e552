"""ImageNet weights from the caches of huggingface_hub and torch.hub, or from the hub itself."""

import contextlib
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from models.teachers.teacher import pretrained_cfg
from utils.errors import UserError

PATIENCE = 4  # seconds that a model hub has to answer
_silent_until: dict[str, float] = {}  # by hub


def imagenet_file(backbone: str) -> Path:
    """The weights file of timm's tag: from a cache, or downloaded if the hub answers within seconds."""
    cfg = pretrained_cfg(backbone)
    repo = cfg and cfg.hf_hub_id
    if not repo:
        raise UserError(f"weights: timm has no pretrained weights for backbone '{backbone}'; choose another tag")
    file = cfg.hf_hub_filename or "model.safetensors"
    cached = try_to_load_from_cache(repo, file)
    if isinstance(cached, str):
        return Path(cached)
    by_torch_hub = Path(torch.hub.get_dir(), "checkpoints", Path(cfg.url or f"{backbone}{Path(file).suffix}").name)
    if by_torch_hub.is_file():
        return by_torch_hub
    url = f"{constants.ENDPOINT}/{repo}/resolve/main/{file}"
    if not constants.HF_HUB_OFFLINE and _answers(url):
        with contextlib.suppress(Exception):  # the hub's errors have no common class; the advice below is for all
            return Path(hf_hub_download(repo, file))
    put = f"put {by_torch_hub.name}" if cfg.url else f"put it as {by_torch_hub.name}"
    raise UserError(
        f"weights: the ImageNet weights of '{backbone}' are neither cached nor reachable; "
        f"download {url} elsewhere and give its path as weights=PATH, or {put} into {by_torch_hub.parent}"
    )


def _answers(url: str) -> bool:
    """Whether the URL can be opened within PATIENCE seconds, including name resolution (which has no timeout).

    A hub that did not answer is not asked again for a minute, so the second backbone of a run does not wait again.
    """
    hub = urllib.parse.urlsplit(url).netloc
    if time.monotonic() < _silent_until.get(hub, 0):
        return False
    answered = threading.Event()

    def ask():
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=PATIENCE):
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        _silent_until[hub] = time.monotonic() + 60
    return answered.is_set()
