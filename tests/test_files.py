"""Files are written whole or not at all."""

import pytest

from keras_bikd.files import atomic_write


def test_a_file_appears_when_it_is_finished(tmp_path):
    path = tmp_path / "folder" / "model.keras"
    with atomic_write(path) as unfinished:
        assert (unfinished.parent, unfinished.suffix) == (path.parent, ".keras")
        unfinished.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "row.json"
    path.write_text("old")

    def fail():
        with atomic_write(path) as unfinished:
            unfinished.write_text("ne")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
