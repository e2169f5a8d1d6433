"""The local file system without waiting for disks: for tests that write thousands of files."""

from __future__ import annotations

from tsengine.storage.filesystem import AppendFile, LocalFileSystem


class UnsyncedFileSystem(LocalFileSystem):
    def open_append(self, path: str) -> AppendFile:
        file = super().open_append(path)
        file.datasync = lambda: None  # type: ignore[method-assign]
        return file

    def write_file(self, path: str, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)

    def sync_dir(self, path: str) -> None:
        pass
