"""Patients as keyed hashes: one patient, one name, and nobody without the key finds out who it is."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from fundusforge.records import DatasetError

VARIABLE = "FUNDUSFORGE_PATIENT_KEY"
"""Environment variable that may hold the key itself."""
_DIGITS = 16
_SHORTEST = 16


def default_key_file() -> Path:
    """Return the file that keeps the key between runs."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fundusforge" / "patient.key"


def patient_key(file: Path | None = None) -> bytes:
    """Return the secret key: from `file`, from the environment, or from the default file, made at first use.

    Raises:
        DatasetError: The file is missing or cannot be read or made, or a key is shorter than 16 characters.
    """
    if file is None and (text := os.environ.get(VARIABLE)):
        return _checked(text.encode(), f"environment variable {VARIABLE}")
    path = file or default_key_file()
    if file is None and not path.exists():
        _create(path)
    try:
        return _checked(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise DatasetError(f"{path}: the patient key cannot be read ({error.strerror})") from None


def hash_patient(key: bytes, source: str, patient: str) -> str:
    """Return 16 hexadecimal digits for a patient of a source (HMAC-SHA256)."""
    message = f"{source}\0{patient}".encode("utf-8", "surrogateescape")  # file names may be no unicode
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < _SHORTEST:
        raise DatasetError(f"{where}: a patient key needs at least {_SHORTEST} characters, found {len(key)}")
    return key


def _create(path: Path) -> None:
    """Make a random key, readable by its owner alone."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(partial, path)
    except FileExistsError:
        pass  # another process was quicker: its key counts
    except OSError as error:
        raise DatasetError(
            f"{path}: the patient key cannot be made ({error.strerror}); set {VARIABLE}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
