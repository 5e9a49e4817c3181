"""What the rim reads of folders."""

from pathlib import Path

from controlplane.runtime.surroundings import folder_lister


def test_a_folder_is_listed_with_all_below_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "onnx").mkdir(parents=True)
    for name in ("config.json", "onnx/model.onnx"):
        (tmp_path / "models" / "m" / name).touch()
    files = folder_lister(tmp_path)
    assert files("models/m") == files(str(tmp_path / "models" / "m")) == {"config.json", "onnx/model.onnx"}


def test_what_is_no_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = folder_lister(tmp_path)
    assert files("absent") is None and files("file") is None
