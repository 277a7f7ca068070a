import stat

import pytest

from fundusforge.prepare.patients import VARIABLE, hash_patient, patient_key
from fundusforge.records import DatasetError


def test_hash_depends_on_key_source_and_patient():
    one = hash_patient(b"k" * 16, "drive", "7")
    assert len(one) == 16 and int(one, 16) >= 0
    assert one == hash_patient(b"k" * 16, "drive", "7")
    others = {
        hash_patient(b"l" * 16, "drive", "7"),
        hash_patient(b"k" * 16, "hrf", "7"),
        hash_patient(b"k" * 16, "drive", "8"),
    }
    assert len(others | {one}) == 4
    assert hash_patient(b"k" * 16, "a", "bc") != hash_patient(b"k" * 16, "ab", "c")


def test_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = patient_key()
    file = tmp_path / "fundusforge" / "patient.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert patient_key() == key and len(key) == 64
    assert [path.name for path in file.parent.iterdir()] == ["patient.key"]


def test_key_from_file_or_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "from-the-environment")
    assert patient_key() == b"from-the-environment"
    (tmp_path / "key").write_text("from-a-file-of-mine\n")
    assert patient_key(tmp_path / "key") == b"from-a-file-of-mine"
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(DatasetError, match="at least 16"):
        patient_key()
    with pytest.raises(DatasetError, match="cannot be read"):
        patient_key(tmp_path / "missing")
