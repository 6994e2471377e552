"""ImageNet weights from the caches of huggingface_hub and torch.hub, or from the hub itself."""

import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from models.teachers.teacher import pretrained_cfg
from utils.errors import UserError, reason

PATIENCE = 4  # seconds that a model hub has to answer
_silent_until: dict[str, float] = {}  # by hub


class HubFile(NamedTuple):
    """The weights file of a timm tag: on huggingface.co, and where torch.hub caches it."""

    repo: str
    name: str
    by_torch_hub: Path
    published_there: bool  # torch.hub's file has its own contents and name; else this one goes there under that name

    def cached(self) -> Path | None:
        if isinstance(found := try_to_load_from_cache(self.repo, self.name), str):
            return Path(found)
        return self.by_torch_hub if self.by_torch_hub.is_file() else None

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{self.repo}/resolve/main/{self.name}"

    def advice(self) -> str:
        """How to do without a connection, as the points 2 and 3 of a sentence."""
        cache, name = self.by_torch_hub.parent, self.by_torch_hub.name
        put = f"put {name} into {cache}" if self.published_there else f"put that file into {cache} as {name}"
        return f"(2) download {self.url} on another computer and write weights=PATH; (3) {put}"

    def download(self) -> Path:
        """The downloaded file. Raises UserError that says why not, within seconds if the hub does not answer."""
        if constants.HF_HUB_OFFLINE or not _answers(self.url):
            raise UserError("the model hub cannot be reached")
        try:
            return Path(hf_hub_download(self.repo, self.name))
        except Exception as error:  # the hub's errors have no common class
            raise UserError(f"they cannot be downloaded ({reason(error)})") from None


def hub_file(backbone: str) -> HubFile:
    """Raises UserError if timm has no weights for this network or tag."""
    cfg = pretrained_cfg(backbone)
    if not (repo := cfg and cfg.hf_hub_id):
        raise UserError(f"weights: timm has no pretrained weights for backbone '{backbone}'; choose another tag")
    name = cfg.hf_hub_filename or "model.safetensors"
    # Of torch.hub's files, these are known to have timm's names of layers: its own, of ResNets, and of Inception.
    known = any(part in (cfg.url or "") for part in ("/pytorch-image-models/", "resne", "inception_v3_google"))
    there = Path(torch.hub.get_dir(), "checkpoints", Path(cfg.url).name if known else f"{backbone}{Path(name).suffix}")
    return HubFile(repo, name, there, known)


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
        try:
            with urllib.request.urlopen(request, timeout=2 * PATIENCE):
                answered.set()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404):  # the download will say so; after others it would try for long
                answered.set()
        except (OSError, ValueError, http.client.HTTPException):  # also of a proxy that answers something else
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)  # before its own timeout, or a silent hub could look like one that refuses
    if thread.is_alive():
        _silent_until[hub] = time.monotonic() + 60
    return answered.is_set()
