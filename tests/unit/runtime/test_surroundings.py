"""What the rim reads of folders and files."""

import os
from pathlib import Path

import pytest

from controlplane.policy.secrets import SecretRef
from controlplane.runtime.surroundings import folder_lister, secret_reader


def test_a_folder_is_listed_with_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "onnx").mkdir(parents=True)
    for name in ("config.json", "onnx/model.onnx"):
        (tmp_path / "models" / "m" / name).touch()
    files = folder_lister(tmp_path)
    assert files("models/m") == files(str(tmp_path / "models" / "m")) == {"config.json", "onnx/model.onnx"}


def test_only_files_are_read_for_secrets(tmp_path: Path) -> None:
    read = secret_reader(tmp_path)
    (tmp_path / "real").write_text("hush")
    (tmp_path / "link").symlink_to("real")
    assert read(SecretRef("file", "link")) == "hush"
    os.mkfifo(tmp_path / "pipe")
    for name, reason in [
        ("pipe", "not a file"),
        ("/dev/zero", "not a file"),
        (".", "directory"),
        ("x", "No such file"),
    ]:
        with pytest.raises(OSError, match=reason):
            read(SecretRef("file", name))


def test_what_is_no_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = folder_lister(tmp_path)
    assert files("absent") is None and files("file") is None
