"""What a command writes is there whole or not at all, and nothing but regular files is ever replaced."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from stackmesh.cli import files


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_its_owners(tmp_path):
    path = tmp_path / "backup.yaml"
    files.put(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_its_mode(tmp_path):
    path = tmp_path / "backup.yaml"
    path.write_text("before")
    path.chmod(0o640)
    files.put(path, "after")
    assert (path.read_text(), mode(path)) == ("after", 0o640)


def a_pipe_stays(tmp_path, put, link=None):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if link is not None:
        link.symlink_to(pipe)
    keep = os.open(pipe, os.O_RDWR)  # as long as it is open nobody waits for anybody
    try:
        put(link or pipe, "text")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(keep, 100) == b"text"
    finally:
        os.close(keep)
    assert link is None or link.is_symlink()


def test_a_pipe_is_written_to(tmp_path):
    a_pipe_stays(tmp_path, files.put)


def test_a_pipe_behind_a_link_is_written_to(tmp_path):
    a_pipe_stays(tmp_path, files.put, tmp_path / "link")


def renaming(path, text):
    """The planted bug."""
    beside = path.with_name(".beside")
    beside.write_text(text)
    beside.replace(path)


def test_the_check_finds_a_pipe_that_is_replaced(tmp_path):
    with pytest.raises(AssertionError):
        a_pipe_stays(tmp_path, renaming)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_stays_a_link(tmp_path, there):
    target, link = tmp_path / "target.yaml", tmp_path / "link.yaml"
    link.symlink_to(target)
    if there:
        target.write_text("before")
    files.put(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, number in (
        (tmp_path / "none" / "b.yaml", errno.ENOENT),
        (tmp_path, errno.EISDIR),
        (loop, errno.ELOOP),
        (tmp_path / ("n" * 300), errno.ENAMETOOLONG),
    ):
        with pytest.raises(OSError, match=os.strerror(number)) as raised:
            files.put(path, "text")
        assert (raised.value.filename, raised.value.errno) == (str(path), number)


def test_what_cannot_be_written_leaves_what_was(tmp_path):
    path = tmp_path / "backup.yaml"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        files.put(path, "\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
