"""Files: content hashes that are cheap to ask for again, and writing that leaves no halves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")


def file_digest(path: Path) -> str:
    """Hash a file, or look the hash up when the file has not changed since the last time.

    A file in the Hugging Face cache is a link to a blob that is named by its own sha256, so it
    need not be read. Other files are identified by path, size, inode, and the times of their
    last modification and of their last change, the second of which cannot be set back.

    Args:
        path: The file.

    Returns:
        Its sha256 in hexadecimal.

    Raises:
        OSError: If the file cannot be read.
    """
    real = path.resolve(strict=True)
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    stat = real.stat()
    identity = "|".join(
        map(str, (real, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
    )
    known = _read_cache()
    if (digest := known.get(identity)) is None:
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _write_cache({**_read_cache(), identity: digest})
    return digest


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "stabfw" / "file-digests.json"


def _read_cache() -> dict[str, str]:
    try:
        known = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_cache(known: dict[str, str]) -> None:
    # The cache only saves time: a read-only home directory must not stop a run.
    with contextlib.suppress(OSError):
        target = _cache_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as file:
            json.dump(known, file)
        Path(file.name).replace(target)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink()
            raise
    with contextlib.suppress(OSError):
        # Temporary files are private; results are as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    temporary.replace(path)
